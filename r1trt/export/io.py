"""Reading an export back: the manifest, the graph, and a check that its weights are still what they were."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from r1trt.artifacts.export import ExportArtifact, WeightFile
from r1trt.artifacts.manifest import MANIFEST_FILE
from r1trt.checkpoint import read_safetensors_header
from r1trt.config import ModelConfig
from r1trt.errors import ExportError
from r1trt.families import model_config_from_dict
from r1trt.graph.load import model_from_onnx_file


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """An export directory in memory.

    Attributes:
        artifact: The directory.
        model: The graph; external tensors resolve against `weight_base`.
        config: The model's configuration.
        weight_base: Directory that the weights' file names are relative to.
    """

    artifact: ExportArtifact
    model: ir.Model
    config: ModelConfig
    weight_base: Path

    @property
    def path(self) -> Path:
        """Where the export is."""
        return self.artifact.path

    def weight_marks(self) -> tuple[str, ...]:
        """What tells the weights' contents from others of the same headers, without reading them.

        Nobody sets the time of a change of status, as one can that of a modification; a copy has another.
        """
        files = self.artifact.manifest.weights.files
        status = [(file, (self.weight_base / file.name).stat()) for file in files]
        return tuple(f"{file.header_sha256} {at.st_mtime_ns} {at.st_ctime_ns}" for file, at in status)


class WeightsGoneError(ExportError):
    """The weights that an export points to are not where they were."""


def weight_base_of(export: ExportArtifact) -> Path:
    """The weight base directory of an export, checked against the files' sizes and headers.

    Raises:
        WeightsGoneError: A weight file is not where it was.
        ExportError: A weight file is not the one that was exported.
    """
    for file in export.manifest.weights.files:
        _check_weight_file(export, file)
    return export.weight_base


def _check_weight_file(export: ExportArtifact, file: WeightFile) -> None:
    path = export.weight_base / file.name
    fix = f"export the checkpoint again, or put the original file back (the export is {export.path})"
    if not path.resolve().is_file():
        raise WeightsGoneError("A weight file of this export is gone.", where=path, fix=fix)
    size = path.stat().st_size
    if size != file.bytes:
        raise ExportError(
            "A weight file changed since the export.",
            where=path,
            found=f"{size} bytes",
            expected=f"{file.bytes} bytes",
            fix=fix,
        )
    if read_safetensors_header(export.weight_base, file.name).header_sha256 != file.header_sha256:
        raise ExportError("A weight file's header changed since the export.", where=path, fix=fix)


def load_export(directory: Path) -> ExportedModel:
    """Load an export directory.

    Raises:
        ArtifactError: It is not an export, or its manifest is not valid.
        ExportError: It is damaged, or its weights changed.
    """
    export = ExportArtifact.read(directory)
    base = weight_base_of(export)
    model = model_from_onnx_file(export.graph)
    _point_weights(model, base, {file.name for file in export.manifest.weights.files})
    config = model_config_from_dict(dict(export.manifest.config), where=directory / MANIFEST_FILE)
    return ExportedModel(artifact=export, model=model, config=config, weight_base=base)


def _point_weights(model: ir.Model, base: Path, files: Collection[str]) -> None:
    """Resolve external tensors against `base`, and check that each lies inside a file of the export."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        location = Path(tensor.location)
        if location.is_absolute() or ".." in location.parts:
            raise ExportError("A weight points out of its directory.", where=value.name, found=location)
        if location.as_posix() not in files:
            raise ExportError(
                "A weight points to a file that is none of the export's.",
                where=value.name,
                found=location,
                expected=f"a weight file that {MANIFEST_FILE} lists",
                fix="run `r1trt export` again",
            )
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
