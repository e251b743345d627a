"""A checkpoint directory, checked as a whole from its config and headers alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1trt.artifacts.directory import ModelDirectory
from r1trt.checkpoint.block_scales import FP8, block_scales, is_block_fp8, scale_findings, weight_of_scales
from r1trt.checkpoint.index import WeightFiles, weight_files_from_dir
from r1trt.checkpoint.layout import no_checkpoint
from r1trt.checkpoint.names import bullet_list
from r1trt.checkpoint.safetensors_header import SafetensorsHeader, TensorRef
from r1trt.checkpoint.weights import tensors_are_equal
from r1trt.config import ModelConfig
from r1trt.errors import CheckpointError
from r1trt.families import expected_tensors, is_ignored, model_config_from_dict
from r1trt.families.tensors import WEIGHT_DTYPES
from r1trt.files import require_unicode_path
from r1trt.strict_json import json_object_from_file

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_SAVE_INSIDE = "save the model that is inside of it, with save_pretrained(...)"
_LANGUAGE_ALONE = "this is a model with images; export a checkpoint of the language model alone"
# What stands in front of names, and what it means.
PREFIXES = {
    "_orig_mod.": f"torch.compile wraps models so; {_SAVE_INSIDE}",
    "module.": f"training on several GPUs wraps models so; {_SAVE_INSIDE}",
    "pretrained_model.": f"TRL wraps models so; {_SAVE_INSIDE}",
    "base_model.model.": "peft wraps models so; call merge_and_unload() before save_pretrained(...)",
    "language_model.": _LANGUAGE_ALONE,
    "model.language_model.": _LANGUAGE_ALONE,
}
# As TRL and reward models name them.
VALUE_HEADS = ("v_head.", "value_head.", "score.")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A Hugging Face checkpoint whose tensors are exactly those that its config asks for.

    Attributes:
        path: Its directory.
        raw_config: config.json as it stands.
        config: What it means.
        tensors: References by name; none missing, unexpected or of another shape.
        scales: References of the scales of FP8 weights, by their own names.
        files: Headers of the weight files, sorted by name.
        notes: What a user should know of how it was read.
    """

    path: Path
    raw_config: Mapping[str, Any]
    config: ModelConfig
    tensors: Mapping[str, TensorRef]
    scales: Mapping[str, TensorRef]
    files: tuple[SafetensorsHeader, ...]
    notes: tuple[str, ...] = ()

    @property
    def has_links(self) -> bool:
        """A weight file is a symbolic link, as in Hugging Face's cache.

        ONNX Runtime and onnx refuse external data behind a link that leaves the directory: such a checkpoint
        has to be exported with its weights copied.
        """
        return any(file.is_link for file in self.files)


def checkpoint_from_dir(path: Path) -> Checkpoint:
    """Opens a checkpoint; reads config.json, the index and headers, no weights.

    Args:
        path: Directory with config.json and safetensors files.

    Returns:
        The checkpoint, whose tensors fit its configuration.

    Raises:
        CheckpointError: A file is missing or malformed, or tensors are missing, unexpected, of another shape
            or of an unsupported dtype (one error lists all of them).
        ConfigError: The configuration is not supported.
    """
    require_unicode_path(path, CheckpointError)
    config_file = ModelDirectory(path=path).config
    if not path.is_dir() or not os.path.lexists(config_file):
        raise no_checkpoint(path)
    raw_config, notes = json_object_from_file(config_file), list[str]()
    config = model_config_from_dict(raw_config, where=config_file, notes=notes)
    weights = weight_files_from_dir(path)
    expected = expected_tensors(config)
    held, unused = _held(config, expected, weights)
    notes += [*weights.notes, *unused]
    _check_tensors(path, config, expected, held)
    _check_tied_head(path, config, held)
    tensors = {name: held[name] for name in expected}
    return Checkpoint(
        path=path,
        raw_config=raw_config,
        config=config,
        tensors=tensors,
        scales=block_scales(config, expected, held),
        files=weights.headers,
        notes=tuple(notes),
    )


def _held(
    config: ModelConfig, expected: Mapping[str, tuple[int, ...]], weights: WeightFiles
) -> tuple[dict[str, TensorRef], list[str]]:
    """The tensors that count, and notes of others: not listed and not wanted, or of a value head."""
    held = {tensor.name: tensor for header in weights.headers for tensor in header.tensors}
    used = sorted(weights.unlisted & expected.keys())
    unlisted = sorted(
        name for name in weights.unlisted - expected.keys() if not _is_known(config, expected, name)
    )
    value_head = sorted(name for name in held if name.startswith(VALUE_HEADS) and name not in expected)
    notes = []
    if used:
        notes.append(f"The index does not list {_some(used)}; the model needs it, and a shard holds it.")
    if unlisted:
        notes.append(f"The index does not list {_some(unlisted)} of the shards: not a part of the model.")
    if value_head:
        notes.append(f"A value head ({_some(value_head)}) is not exported: it scores texts.")
    return {name: tensor for name, tensor in held.items() if name not in {*unlisted, *value_head}}, notes


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0][:200]}{more}"


def _check_tensors(
    path: Path, config: ModelConfig, expected: Mapping[str, tuple[int, ...]], held: Mapping[str, TensorRef]
) -> None:
    common = sorted(expected.keys() & held.keys())
    extra = sorted(name for name in held.keys() - expected.keys() if not _is_known(config, expected, name))
    lines = [
        *bullet_list(
            "missing", (f"{name} {list(expected[name])}" for name in sorted(expected.keys() - held.keys()))
        ),
        *bullet_list("unexpected", (f"{name[:200]} {list(held[name].shape)}" for name in extra)),
        *bullet_list(
            "wrong shape",
            (
                f"{name}: {list(held[name].shape)} instead of {list(expected[name])}"
                for name in common
                if held[name].shape != expected[name]
            ),
        ),
        *bullet_list(
            "wrong dtype",
            (
                f"{name}: {held[name].dtype}"
                for name in common
                if held[name].dtype not in WEIGHT_DTYPES and not is_block_fp8(config, held[name])
            ),
        ),
        *scale_findings(config, expected, held),
    ]
    if lines:
        fp8 = "" if config.quantization is None else f", projections also of {FP8} with scales"
        raise CheckpointError(
            "\n".join([f"tensors do not fit config.json ({config.architecture})", *lines]),
            where=path,
            found=f"{len(held)} tensors",
            expected=f"{len(expected)} tensors of {', '.join(WEIGHT_DTYPES)}{fp8}",
            fix=_fix_for(expected, held),
        )


def _fix_for(expected: Mapping[str, tuple[int, ...]], held: Mapping[str, TensorRef]) -> str:
    """What helps: names of another kind are known by what they have in front of them."""
    if expected.keys() - held.keys() == {HEAD}:
        return (
            "set tie_word_embeddings to true in config.json if the head is the embedding; else it is missing"
        )
    for prefix, helps in PREFIXES.items():
        if {name.removeprefix(prefix) for name in held if name.startswith(prefix)} & expected.keys():
            return f"the names begin with {prefix!r}: {helps}"
    return "check that config.json and the weights belong together"


def _is_known(config: ModelConfig, expected: Mapping[str, tuple[int, ...]], name: str) -> bool:
    """Whether a tensor that is no weight has a place: unused, or the scales of a weight."""
    weight = weight_of_scales(config, name)
    return weight in expected or is_ignored(config, weight or name)


def _check_tied_head(path: Path, config: ModelConfig, held: Mapping[str, TensorRef]) -> None:
    """Refuses a head beside a tied embedding that it differs from.

    It is rare, and the one case that reads weights: transformers leaves such a head untied, so that ignoring
    it would export another model.
    """
    if not config.tie_word_embeddings or HEAD not in held:
        return
    if not tensors_are_equal(path, held[EMBEDDING], held[HEAD]):
        raise CheckpointError(
            "config ties the head to the embedding, but the checkpoint holds a different head",
            where=f"{path}, tensor {HEAD!r}",
            expected=f"no {HEAD}, or the values of {EMBEDDING}",
            fix="set tie_word_embeddings to false in config.json to use the head",
        )
