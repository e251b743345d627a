"""Which stages of the pipeline an artifact lets us run here, and which not, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from r1trt.artifacts.store import read_manifest, sha256_of_file
from r1trt.config import ModelConfig
from r1trt.errors import ConfigError, R1TrtError, UnavailableError
from r1trt.evaluate.compare import StageName, StageRunner, reference_loader, session_loader
from r1trt.evaluate.reference import ReferenceModel, layer_output
from r1trt.families import model_config_from_dict
from r1trt.runtime.engine_session import session_from_cpu_engine
from r1trt.runtime.graph_session import session_from_export, session_from_simulation
from r1trt.runtime.onnxruntime_model import LoadOptions

TITLES: Mapping[StageName, str] = {
    "checkpoint": "checkpoint in PyTorch, FP32",
    "exported": "exported graph in ONNX Runtime, FP32",
    "typed": "typed graph's arithmetic in ONNX Runtime (simulated.onnx)",
    "cpu": "CPU engine in ONNX Runtime (cpu.onnx)",
    "engine": "the engine itself, on this machine's GPU",
}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage.

    Attributes:
        name: Its name.
        runner: What runs it; None where it cannot be run here.
        reason: Why not; empty where it can.
    """

    name: StageName
    runner: StageRunner | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the stages come from.

    Attributes:
        directory: Build directory, or an export directory.
        manifest: Its manifest.
        config: The model.
        export: Directory of the export that was built; None where it is not known.
        checkpoint: Checkpoint to compare with; None where it is not known or gone.
    """

    directory: Path
    manifest: Mapping[str, Any]
    config: ModelConfig
    export: Path | None
    checkpoint: Path | None

    @property
    def is_export(self) -> bool:
        """Whether only an export is to be validated."""
        return bool(self.manifest["kind"] == "export")

    @property
    def model_name(self) -> str:
        """The model's name."""
        return str(self.manifest.get("source", self.manifest).get("model_name", self.directory.name))

    @property
    def room(self) -> int | None:
        """Most tokens of a sequence that every graph holds; a graph without a cache sees one call's only."""
        has_cache = self.manifest.get("cache", True)
        own = self.manifest.get("capacity" if has_cache else "max_input_len")
        exported = None if self.export is None else read_manifest(self.export).get("capacity")
        return min((size for size in (own, exported) if size is not None), default=None)


def sources_from_directory(directory: Path, reference: Path | None) -> Sources:
    """Find out what a directory was made from.

    Args:
        directory: Build directory or export directory.
        reference: Checkpoint to compare with; None means the one that the manifest names.

    Raises:
        R1TrtError: The directory holds neither, or the reference is of another model.
    """
    manifest = read_manifest(directory)
    if manifest["kind"] not in ("export", "engine"):
        raise ConfigError(
            "This directory holds nothing to validate.",
            where=directory,
            found=f"kind {manifest['kind']!r}",
            expected="the directory of a build or of an export",
        )
    config = _config_of(directory / "config.json")
    named = manifest.get("source", manifest).get("checkpoint")
    checkpoint = reference or (Path(named) if named and Path(named, "config.json").is_file() else None)
    if checkpoint is not None:
        _require_same_model(config, checkpoint)
    return Sources(
        directory=directory,
        manifest=manifest,
        config=config,
        export=_export_of(directory, manifest),
        checkpoint=checkpoint,
    )


def _export_of(directory: Path, manifest: Mapping[str, Any]) -> Path | None:
    """The export that was built: the manifest's, or the directory above, if it holds that graph."""
    if manifest["kind"] == "export":
        return directory
    source = manifest.get("source", {})
    named = [Path(source["export"])] if source.get("export") else []
    for candidate in (*named, directory.resolve().parent):
        graph = candidate / "model.onnx"
        if graph.is_file() and sha256_of_file(graph) == source.get("model_sha256"):
            return candidate
    return None


def _config_of(path: Path) -> ModelConfig:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("The model's configuration cannot be read.", where=path, found=error) from error
    return model_config_from_dict(raw, where=path)


def _require_same_model(config: ModelConfig, checkpoint: Path) -> None:
    other = _config_of(checkpoint / "config.json")
    names = ("family", "vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim")
    different = [name for name in names if getattr(config, name) != getattr(other, name)]
    if different:
        raise ConfigError(
            "The reference is another model.",
            where=checkpoint,
            found=", ".join(f"{name} {getattr(other, name)}" for name in different),
            expected=", ".join(f"{name} {getattr(config, name)}" for name in different),
            fix="pass the checkpoint that the engine was made from",
        )


def stages_from_sources(sources: Sources, *, threads: int | None = None) -> list[Stage]:
    """The stages of an artifact in the order of the pipeline, those that cannot be run here included.

    Raises:
        UnavailableError: Not even one stage of the artifact itself can be run here.
    """
    stages = [_checkpoint_stage(sources), _exported_stage(sources, threads)]
    if not sources.is_export:
        if sources.manifest["backend"] == "onnxruntime":
            stages.append(_cpu_stage(sources, threads))
        else:
            stages += [_typed_stage(sources, threads), _engine_stage(sources)]
    tested = stages[1:] if sources.is_export else stages[2:]
    if all(stage.runner is None for stage in tested):
        raise UnavailableError(
            "Nothing of this artifact can be run here.",
            where=sources.directory,
            found="; ".join(f"{stage.name}: {stage.reason}" for stage in tested),
            fix="build again, or validate on a machine with the engine's GPU",
        )
    return stages


def _checkpoint_stage(sources: Sources) -> Stage:
    checkpoint = sources.checkpoint
    if checkpoint is None:
        reason = "the checkpoint is not where it was; pass it with --reference"
        return Stage(name="checkpoint", runner=None, reason=reason)
    capacity = sources.manifest.get("capacity")

    def load() -> ReferenceModel:
        return ReferenceModel(checkpoint, family=sources.config.family, capacity=capacity)

    return Stage(name="checkpoint", runner=StageRunner("checkpoint", reference_loader(load)))


def _exported_stage(sources: Sources, threads: int | None) -> Stage:
    export = sources.export
    if export is None or not (export / "model.onnx").is_file():
        return Stage(name="exported", runner=None, reason="the export that was built is not where it was")
    try:
        manifest = read_manifest(export, "export")
        layers = layer_values(export / "model.onnx", sources.config.num_layers)
    except R1TrtError as error:
        return Stage(name="exported", runner=None, reason=error.message)
    load = session_loader(
        lambda: session_from_export(export, manifest, threads=threads, extra_outputs=layers)
    )
    return Stage(name="exported", runner=StageRunner("exported", load))


def _typed_stage(sources: Sources, threads: int | None) -> Stage:
    path = sources.directory / "simulated.onnx"
    if not path.is_file():
        return Stage(name="typed", runner=None, reason="the build has no simulated.onnx")
    layers = layer_values(path, sources.config.num_layers)
    load = session_loader(
        lambda: session_from_simulation(
            sources.directory, sources.manifest, threads=threads, extra_outputs=layers
        )
    )
    return Stage(name="typed", runner=StageRunner("typed", load))


def _cpu_stage(sources: Sources, threads: int | None) -> Stage:
    load = session_loader(
        lambda: session_from_cpu_engine(sources.directory, sources.manifest, LoadOptions(threads=threads))
    )
    return Stage(name="cpu", runner=StageRunner("cpu", load))


def _engine_stage(sources: Sources) -> Stage:
    from r1trt.runtime.tensorrt_session import session_from_tensorrt_engine

    if not sources.manifest.get("engines"):
        return Stage(name="engine", runner=None, reason="the build stopped before the engine")
    try:
        session = session_from_tensorrt_engine(sources.directory, sources.manifest)
    except UnavailableError as error:
        return Stage(name="engine", runner=None, reason=error.message)
    return Stage(name="engine", runner=StageRunner("engine", session_loader(lambda: session)))


def layer_values(path: Path, num_layers: int) -> dict[str, str]:
    """Find the values of a graph that hold the layers' results.

    A typed graph's nodes are named `<layer's name>/<what>`; its simulation rounds such a value and keeps the
    value's name for the rounded one, while what was not rounded yet becomes `<name>/exact`.

    Returns:
        `layer_output(i)` -> value's name, for the layers that are found.
    """
    graph = onnx.load(path, load_external_data=False).graph
    made = {value for node in graph.node for value in node.output}
    found: dict[str, str] = {}
    wanted = {layer_output(layer) for layer in range(num_layers)}
    for node in graph.node:
        layer = node.name.split("/")[0]
        if layer in wanted:
            value = node.output[0]
            rounded = value.removesuffix("/exact")
            found[layer] = rounded if rounded in made else value
    return found
