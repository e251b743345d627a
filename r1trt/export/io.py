"""Reading an export back: the manifest, the graph, and a check that its weights are still what they were."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from r1trt.artifacts.store import read_manifest
from r1trt.checkpoint import read_safetensors_header
from r1trt.config import ModelConfig
from r1trt.errors import ExportError
from r1trt.families import model_config_from_dict

LOCAL_WEIGHTS = "."


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """An export directory in memory.

    Attributes:
        path: The directory.
        manifest: Its manifest.
        model: The graph; external tensors resolve against `weight_base`.
        config: The model's configuration.
        weight_base: Directory that the weights' file names are relative to.
    """

    path: Path
    manifest: dict[str, Any]
    model: ir.Model
    config: ModelConfig
    weight_base: Path


def weight_base_of(directory: Path, manifest: dict[str, Any]) -> Path:
    """The weight base directory that a manifest names, checked against the files' sizes and headers.

    Raises:
        ExportError: A weight file is gone, or is not the one that was exported.
    """
    try:
        weights = manifest["weights"]
        named = str(weights["base_directory"])
        files = [(str(entry["name"]), entry["bytes"], entry["header_sha256"]) for entry in weights["files"]]
    except (KeyError, TypeError) as error:
        raise ExportError(
            "The manifest of this export is damaged, or another version's.",
            where=directory / "manifest.json",
            found=f"{type(error).__name__}: {error}",
            expected="weights: base_directory, and name, bytes, header_sha256 of every file",
            fix="run `r1trt export` again",
        ) from error
    base = directory if named == LOCAL_WEIGHTS else Path(named)
    for name, size, header_sha256 in files:
        _check_weight_file(base, name, size, header_sha256, directory)
    return base


def _check_weight_file(base: Path, name: str, expected: int, header_sha256: str, directory: Path) -> None:
    path = base / name
    fix = f"export the checkpoint again, or put the original file back (the export is {directory})"
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ExportError(
            "A weight file lies outside its directory.", where=name, fix="run `r1trt export` again"
        )
    if not path.resolve().is_file():
        raise ExportError("A weight file of this export is gone.", where=path, fix=fix)
    size = path.stat().st_size
    if size != expected:
        raise ExportError(
            "A weight file changed since the export.",
            where=path,
            found=f"{size} bytes",
            expected=f"{expected} bytes",
            fix=fix,
        )
    if read_safetensors_header(base, name).header_sha256 != header_sha256:
        raise ExportError("A weight file's header changed since the export.", where=path, fix=fix)


def load_export(directory: Path) -> ExportedModel:
    """Load an export directory.

    Raises:
        ExportError: It is not an export, is damaged, or its weights changed.
    """
    manifest = read_manifest(directory)
    if manifest.get("kind") != "export":
        raise ExportError(
            "This directory is not an export.",
            where=directory,
            found=f"kind {manifest.get('kind')!r}",
            expected="kind 'export'",
            fix="pass the directory that `r1trt export` wrote",
        )
    base = weight_base_of(directory, manifest)
    path = directory / "model.onnx"
    try:
        model = ir.load(path)
    except Exception as error:  # protobuf's own error types vary with its implementation
        raise ExportError(
            "The exported graph cannot be read.", where=path, found=error, fix="run `r1trt export` again"
        ) from error
    _point_weights(model, base)
    config = model_config_from_dict(manifest.get("config", {}), where=directory / "manifest.json")
    return ExportedModel(path=directory, manifest=manifest, model=model, config=config, weight_base=base)


def _point_weights(model: ir.Model, base: Path) -> None:
    """Resolve external tensors against `base`, and check that each lies inside its file."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        location = Path(tensor.location)
        if location.is_absolute() or ".." in location.parts:
            raise ExportError("A weight points out of its directory.", where=value.name, found=location)
        end = (tensor.offset or 0) + (tensor.length or 0)
        size = (base / location).stat().st_size if (base / location).is_file() else 0
        if end > size:
            raise ExportError(
                "A weight points behind the end of its file.",
                where=f"{value.name} in {base / location}",
                found=f"{size} bytes",
                expected=f"at least {end}",
                fix="run `r1trt export` again",
            )
        tensor.base_dir = base
