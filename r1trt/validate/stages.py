"""Which stages of the pipeline an artifact lets us run here, and which not, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass

from r1trt.artifacts import BuildArtifact, ExportArtifact
from r1trt.artifacts.parts import PartsArtifact
from r1trt.artifacts.trusted_code import require_trusted_build
from r1trt.errors import R1TrtError, UnavailableError
from r1trt.evaluate.checkpoint import model_from_checkpoint
from r1trt.evaluate.models import Model, model_from_session
from r1trt.export.io import WeightsGoneError, weight_base_of
from r1trt.runtime.engine_session import session_from_build, session_of_parts
from r1trt.runtime.graph_session import session_from_export, session_from_simulation
from r1trt.runtime.onnxruntime_model import LoadOptions
from r1trt.runtime.onnxruntime_session import OnnxRuntimeSession
from r1trt.runtime.session import Session
from r1trt.validate.layer_values import layer_values
from r1trt.validate.pairs import StageName
from r1trt.validate.sources import Sources

TITLES: Mapping[StageName, str] = {
    "checkpoint": "checkpoint in PyTorch, FP32",
    "exported": "exported graph in ONNX Runtime, FP32",
    "typed": "typed graph's arithmetic in ONNX Runtime",
    "cpu": "CPU engine in ONNX Runtime",
    "engine": "the engine itself, on this machine's GPU",
}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage.

    Attributes:
        name: Its name.
        opened: Loads it for the time of a `with` block; None where it cannot be run here.
        reason: Why not; empty where it can.
    """

    name: StageName
    opened: Callable[[], AbstractContextManager[Model]] | None
    reason: str = ""


def stages_from_sources(sources: Sources, *, threads: int | None = None, trust: bool = False) -> list[Stage]:
    """The stages of an artifact in the order of the pipeline, those that cannot be run here included.

    Args:
        sources: The artifact, and what it was made from.
        threads: CPU threads of ONNX Runtime; None takes one for each core that may be used.
        trust: Code that a build brings may run, even if this machine did not make it.

    Raises:
        ArtifactError: A build lacks files, or has them damaged.
        UntrustedCodeError: A build brings such code.
        UnavailableError: Not even one stage of the artifact itself can be run here.
    """
    artifact = sources.artifact
    if isinstance(artifact, BuildArtifact):
        artifact.require_whole()
        if artifact.manifest.parts:
            PartsArtifact.of(artifact).require_unchanged()
    before = [_checkpoint_stage(sources), _exported_stage(sources, threads)]
    if isinstance(artifact, ExportArtifact):
        before, own = before[:1], before[1:]
    elif artifact.manifest.backend == "onnxruntime":
        own = [_cpu_stage(artifact, threads)]
    else:
        own = [_typed_stage(artifact, sources.config.num_layers, threads), _engine_stage(artifact, trust)]
    if all(stage.opened is None for stage in own):
        raise UnavailableError(
            "Nothing of this artifact can be run here.",
            where=artifact.path,
            found="; ".join(f"{stage.name}: {stage.reason}" for stage in own),
            fix="build again, or validate on a machine with the engine's GPU",
        )
    return before + own


def _session_stage(name: StageName, load: Callable[[], Session]) -> Stage:
    @contextmanager
    def opened() -> Iterator[Model]:
        with closing(load()) as session:
            yield model_from_session(session)

    return Stage(name=name, opened=opened)


def _checkpoint_stage(sources: Sources) -> Stage:
    checkpoint = sources.checkpoint
    if checkpoint is None:
        reason = "the checkpoint is not where it was, or is in FP8; pass a dequantized one with --reference"
        return Stage(name="checkpoint", opened=None, reason=reason)

    @contextmanager
    def opened() -> Iterator[Model]:
        yield model_from_checkpoint(checkpoint, config=sources.config, capacity=sources.capacity)

    return Stage(name="checkpoint", opened=opened)


def _exported_stage(sources: Sources, threads: int | None) -> Stage:
    export = sources.export
    if export is None or not export.graph.is_file():
        reason = "the export that was built is not where it was, or has changed since"
        return Stage(name="exported", opened=None, reason=reason)
    try:
        weight_base_of(export)
    except WeightsGoneError as error:
        if sources.artifact is export:
            raise
        return Stage(name="exported", opened=None, reason=f"{error.message} {error.details['where']}")
    try:
        layers = layer_values(export.graph, sources.config.num_layers)
    except R1TrtError as error:
        return Stage(name="exported", opened=None, reason=error.message)
    return _session_stage(
        "exported",
        lambda: session_from_export(export, threads=threads, extra_outputs=layers),
    )


def _typed_stage(build: BuildArtifact, num_layers: int, threads: int | None) -> Stage:
    if build.manifest.parts:
        return _session_stage("typed", lambda: _session_of_simulated_parts(build, num_layers, threads))
    if not build.simulated_graph.is_file():
        reason = f"the build has no {build.simulated_graph.name}"
        return Stage(name="typed", opened=None, reason=reason)
    layers = layer_values(build.simulated_graph, num_layers)
    return _session_stage(
        "typed",
        lambda: session_from_simulation(build, threads=threads, extra_outputs=layers),
    )


def _cpu_stage(build: BuildArtifact, threads: int | None) -> Stage:
    return _session_stage(
        "cpu",
        lambda: session_from_build(build, LoadOptions(threads=threads)),
    )


def _session_of_simulated_parts(build: BuildArtifact, num_layers: int, threads: int | None) -> Session:
    options = LoadOptions(threads=threads)

    def opened(part: BuildArtifact, _: LoadOptions) -> OnnxRuntimeSession:
        layers = layer_values(part.simulated_graph, num_layers)
        return session_from_simulation(part, threads=threads, extra_outputs=layers)

    return session_of_parts(build, options, opened)


def _engine_stage(build: BuildArtifact, trust: bool) -> Stage:
    if build.manifest.parts:
        return Stage(name="engine", opened=None, reason="parts for GPUs do not run in one process yet")
    from r1trt.runtime.tensorrt_session import session_from_tensorrt_engine

    if not build.manifest.is_finished:
        return Stage(name="engine", opened=None, reason="the build stopped before the engine")
    require_trusted_build(build, trusted=trust)
    try:
        session = session_from_tensorrt_engine(build)
    except UnavailableError as error:
        return Stage(name="engine", opened=None, reason=error.message)
    return _session_stage("engine", lambda: session)
