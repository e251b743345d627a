"""A checkpoint directory, checked as a whole from its config and headers alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1trt.artifacts.directory import ModelDirectory
from r1trt.checkpoint.block_scales import FP8, block_scales, is_block_fp8, scale_findings, weight_of_scales
from r1trt.checkpoint.index import bullet_list, headers_from_dir
from r1trt.checkpoint.safetensors_header import SafetensorsHeader, TensorRef
from r1trt.checkpoint.weights import tensors_are_equal
from r1trt.config import ModelConfig
from r1trt.errors import CheckpointError
from r1trt.families import expected_tensors, is_ignored, model_config_from_dict
from r1trt.families.tensors import WEIGHT_DTYPES
from r1trt.files import require_unicode_path
from r1trt.strict_json import json_object_from_file

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


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
    """

    path: Path
    raw_config: Mapping[str, Any]
    config: ModelConfig
    tensors: Mapping[str, TensorRef]
    scales: Mapping[str, TensorRef]
    files: tuple[SafetensorsHeader, ...]

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
    if not path.is_dir():
        raise _no_checkpoint("checkpoint is not a directory", path, "a file" if path.exists() else "nothing")
    config_file = ModelDirectory(path=path).config
    if not os.path.lexists(config_file):
        raise _no_checkpoint("directory is not a checkpoint", path, f"no {config_file.name}")
    raw_config = json_object_from_file(config_file)
    config = model_config_from_dict(raw_config, where=config_file)
    files = headers_from_dir(path)
    held = {tensor.name: tensor for file in files for tensor in file.tensors}
    expected = expected_tensors(config)
    _check_tensors(path, config, expected, held)
    _check_tied_head(path, config, held)
    tensors = {name: held[name] for name in expected}
    return Checkpoint(
        path=path,
        raw_config=raw_config,
        config=config,
        tensors=tensors,
        scales=block_scales(config, expected, held),
        files=files,
    )


def _no_checkpoint(message: str, path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        message,
        where=path,
        found=found,
        expected="a directory with config.json and .safetensors files",
        fix="pass the directory of a checkpoint, e.g. from `hf download MODEL --local-dir DIRECTORY`",
    )


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
            fix="check that config.json and the weights belong together",
        )


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
