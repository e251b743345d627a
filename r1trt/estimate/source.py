"""What is estimated: a checkpoint or an export by its headers, a config.json, or a known model's shape."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1trt.artifacts import ExportArtifact, read_artifact
from r1trt.artifacts.directory import ModelDirectory
from r1trt.artifacts.manifest import MANIFEST_FILE
from r1trt.checkpoint import Checkpoint, TensorRef, checkpoint_from_dir, read_safetensors_header
from r1trt.checkpoint.block_scales import FP8, SCALE_DTYPE, block_scales, scales_of_weight
from r1trt.config import ModelConfig, scale_shape
from r1trt.data_types import OF_SAFETENSORS
from r1trt.errors import ConfigError, ExportError
from r1trt.estimate.known_models import KNOWN_MODELS
from r1trt.export.io import weight_base_of
from r1trt.families import expected_tensors, model_config_from_dict
from r1trt.families.tensors import may_be_fp8
from r1trt.strict_json import json_object_from_file

# Hugging Face's names of the types that weights are published in.
_TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_NO_FILE = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class SizedModel:
    """A model as far as its size goes.

    Attributes:
        name: What it was called.
        config: Its configuration.
        tensors: The tensors that it uses, by name.
        scales: The scales of those that are FP8, by their own names.
        stored_bytes: Bytes of all stored tensors by safetensors' name of their type.
        files: Weight files; 0 where only the configuration is known.
    """

    name: str
    config: ModelConfig
    tensors: Mapping[str, TensorRef]
    scales: Mapping[str, TensorRef]
    stored_bytes: Mapping[str, int]
    files: int

    @property
    def has_weights(self) -> bool:
        """Whether headers of weight files were read, rather than a configuration alone."""
        return self.files > 0


def sized_model(source: str) -> SizedModel:
    """Finds what a user names.

    Args:
        source: A checkpoint or export directory, a config.json, or a name of `KNOWN_MODELS`.

    Raises:
        CheckpointError: The checkpoint is damaged or incomplete.
        ConfigError: There is nothing of this name, or the model is not supported.
        ExportError: The export's weights are gone or changed.
    """
    path = Path(source)
    if path.is_dir():
        return _from_directory(path)
    if path.is_file():
        return sized_model_from_config(path.name, json_object_from_file(path), where=path)
    if source in KNOWN_MODELS:
        return sized_model_from_config(source, KNOWN_MODELS[source], where=Path(source))
    raise ConfigError(
        "There is no such model.",
        where=source,
        found="neither a directory, nor a file, nor a known name",
        expected=f"a checkpoint, an export, a config.json, or one of {', '.join(KNOWN_MODELS)}",
    )


def sized_model_from_config(name: str, raw: Mapping[str, Any], *, where: Path) -> SizedModel:
    """A model whose weights are not at hand, of the types that its config.json names, else BF16."""
    config = model_config_from_dict(raw, where=where)
    kind = _TYPES.get(str(raw.get("dtype") or raw.get("torch_dtype")), "BF16")
    tensors, scales = {}, {}
    for tensor, shape in expected_tensors(config).items():
        fp8 = may_be_fp8(config, tensor)
        tensors[tensor] = _imagined(tensor, FP8 if fp8 else kind, shape)
        if fp8:
            scale = scales_of_weight(config, tensor)
            scales[scale] = _imagined(scale, SCALE_DTYPE, scale_shape(shape))
    stored = _bytes_by_type([*tensors.values(), *scales.values()])
    return SizedModel(name=name, config=config, tensors=tensors, scales=scales, stored_bytes=stored, files=0)


def _imagined(name: str, dtype: str, shape: tuple[int, ...]) -> TensorRef:
    length = OF_SAFETENSORS[dtype].bytes * math.prod(shape)
    return TensorRef(name=name, file=_NO_FILE, offset=0, length=length, dtype=dtype, shape=shape)


def sized_model_from_checkpoint(checkpoint: Checkpoint) -> SizedModel:
    """A checkpoint that was opened."""
    return SizedModel(
        name=checkpoint.path.resolve().name,
        config=checkpoint.config,
        tensors=checkpoint.tensors,
        scales=checkpoint.scales,
        stored_bytes=_bytes_by_type(tensor for file in checkpoint.files for tensor in file.tensors),
        files=len(checkpoint.files),
    )


def sized_model_from_export(export: ExportArtifact) -> SizedModel:
    """An export; its weight files are where the export says."""
    where = export.path / MANIFEST_FILE
    config = model_config_from_dict(dict(export.manifest.config), where=where)
    base = weight_base_of(export)
    headers = [read_safetensors_header(base, file.name) for file in export.manifest.weights.files]
    held = {tensor.name: tensor for header in headers for tensor in header.tensors}
    names = expected_tensors(config)
    if missing := sorted(names.keys() - held.keys()):
        raise ExportError(
            "The export's weights are not those of its configuration.",
            where=where,
            found=f"{len(missing)} tensors are missing, first {missing[0]}",
            fix="run `r1trt export` again",
        )
    return SizedModel(
        name=export.manifest.model_name,
        config=config,
        tensors={name: held[name] for name in names},
        scales=block_scales(config, names, held),
        stored_bytes=_bytes_by_type(held.values()),
        files=len(headers),
    )


def _from_directory(path: Path) -> SizedModel:
    if not (path / MANIFEST_FILE).exists():
        config = ModelDirectory(path=path).config
        if config.is_file() and not any(path.glob("*.safetensors*")):
            return sized_model_from_config(path.resolve().name, json_object_from_file(config), where=config)
        return sized_model_from_checkpoint(checkpoint_from_dir(path))
    artifact = read_artifact(path)
    if not isinstance(artifact, ExportArtifact):
        raise ConfigError(
            "An estimate is made of a model, and this is what was made of one.",
            where=path,
            found=artifact.manifest.KIND,
            expected="a checkpoint or an export",
            fix=f"use `r1trt inspect {shlex.quote(str(path))}` for the sizes of what is there",
        )
    return sized_model_from_export(artifact)


def _bytes_by_type(tensors: Iterable[TensorRef]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for tensor in tensors:
        found[tensor.dtype] += tensor.length
    return dict(found)
