"""What an artifact was made from: its export, its checkpoint, and its model's configuration."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from r1trt.artifacts import BuildArtifact, ExportArtifact, read_artifact
from r1trt.artifacts.directory import ModelDirectory
from r1trt.artifacts.disk import sha256_of_file
from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.export import ExportDirectory
from r1trt.config import ModelConfig
from r1trt.errors import ConfigError
from r1trt.families import model_config_from_dict
from r1trt.strict_json import json_object_from_file


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the stages come from.

    Attributes:
        artifact: What is validated.
        model_name: The model's name.
        config: The model.
        export: The export that was built; None where it is not known.
        checkpoint: Checkpoint to compare with; None where it is not known, gone, or in FP8 with block scales,
            which PyTorch does not compute on a CPU.
        capacity: Rows of the artifact's KV cache; None without one.
        room: Most tokens of a sequence that every graph holds; a graph without a cache sees one call's only.
    """

    artifact: BuildArtifact | ExportArtifact
    model_name: str
    config: ModelConfig
    export: ExportArtifact | None
    checkpoint: Path | None
    capacity: int | None
    room: int | None


def sources_from_directory(directory: Path, reference: Path | None) -> Sources:
    """Find out what a directory was made from.

    Args:
        directory: Build directory or export directory.
        reference: Checkpoint to compare with; None means the one that the manifest names.

    Raises:
        R1TrtError: The directory holds neither, or the reference is of another model.
    """
    artifact = read_artifact(directory)
    if isinstance(artifact, ExportArtifact):
        return _sources_of_export(artifact, reference)
    if isinstance(artifact, BuildArtifact):
        return _sources_of_build(artifact, reference)
    raise ConfigError(
        "This directory holds nothing to validate.",
        where=directory,
        found="a model repository",
        expected="the directory of a build or of an export",
    )


def _sources_of_export(export: ExportArtifact, reference: Path | None) -> Sources:
    config = _config_of(export)
    return Sources(
        artifact=export,
        model_name=export.manifest.model_name,
        config=config,
        export=export,
        checkpoint=_checkpoint(config, export.manifest.checkpoint, reference),
        capacity=export.manifest.capacity,
        room=export.manifest.capacity,
    )


def _sources_of_build(build: BuildArtifact, reference: Path | None) -> Sources:
    config, manifest, export = _config_of(build), build.manifest, _export_of(build)
    own = manifest.capacity if manifest.cache else manifest.max_input_len
    exported = None if export is None else export.manifest.capacity
    return Sources(
        artifact=build,
        model_name=manifest.source.model_name,
        config=config,
        export=export,
        checkpoint=_checkpoint(config, manifest.source.checkpoint, reference),
        capacity=manifest.capacity,
        room=min((size for size in (own, exported) if size is not None), default=None),
    )


def _export_of(build: BuildArtifact) -> ExportArtifact | None:
    """The export that was built: the one that the manifest names, or the directory above, by its graph."""
    source = build.manifest.source
    named = [Path(source.export)] if source.export else []
    for path in (*named, build.path.resolve().parent):
        graph = ExportDirectory(path=path).graph
        if graph.is_file() and sha256_of_file(graph) == source.model_sha256:
            with suppress(ArtifactError):
                return ExportArtifact.read(path)
    return None


def _checkpoint(config: ModelConfig, named: str | None, reference: Path | None) -> Path | None:
    """The caller's checkpoint, or the one that the manifest names if it is still there and no FP8."""
    path = reference or (None if named is None else Path(named))
    if path is None or (reference is None and not ModelDirectory(path=path).config.is_file()):
        return None
    _require_same_model(config, path)
    if _config_of(ModelDirectory(path=path)).quantization is None:
        return path
    if reference is None:
        return None
    raise ConfigError(
        "A checkpoint in FP8 cannot be the reference.",
        where=path,
        found="quantization_config",
        expected="the same model dequantized, in BF16, FP16 or FP32",
        fix="pass the directory of a dequantized checkpoint, or none to compare a build with its export",
    )


def _config_of(directory: ModelDirectory) -> ModelConfig:
    return model_config_from_dict(json_object_from_file(directory.config), where=directory.config)


def _sizes(config: ModelConfig) -> dict[str, object]:
    """What two checkpoints of one model have in common, by the names that a message gives."""
    attention = asdict(config.layers[0].attention)
    return {
        "family": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_layers,
        **{name: size for name, size in attention.items() if name.endswith(("heads", "dim", "rank"))},
    }


def _require_same_model(config: ModelConfig, checkpoint: Path) -> None:
    other = _config_of(ModelDirectory(path=checkpoint))
    ours, theirs = _sizes(config), _sizes(other)
    different = [name for name in ours if ours[name] != theirs.get(name)]
    if different:
        raise ConfigError(
            "The reference is another model.",
            where=checkpoint,
            found=", ".join(f"{name} {theirs.get(name)}" for name in different),
            expected=", ".join(f"{name} {ours[name]}" for name in different),
            fix="pass the checkpoint that the engine was made from",
        )
