"""Sessions of build directories; what a server loads.

The backends are imported when they are needed: a machine has the libraries of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from r1trt.artifacts.build import BuildArtifact
from r1trt.artifacts.parts import PartsArtifact
from r1trt.errors import UnavailableError
from r1trt.graph.interface import HIDDEN_OUT, LOGITS
from r1trt.runtime.expert_source import expert_source
from r1trt.runtime.huge_pages import use_huge_pages
from r1trt.runtime.onnxruntime_model import LoadOptions
from r1trt.runtime.session import Session, SessionError

if TYPE_CHECKING:
    from r1trt.runtime.onnxruntime_session import OnnxRuntimeSession


def session_from_build(build: BuildArtifact, options: LoadOptions | None = None) -> Session:
    """Load a build's engine, or those of its parts, whichever backend they are for.

    Args:
        build: The build of a whole model.
        options: How ONNX Runtime loads a CPU's engine.

    Raises:
        SessionError: The engine cannot be loaded, or is a part of a model.
        ArtifactError: A part is missing, changed, of another build or in another's place.
        UnavailableError: It needs a GPU, a library or memory that is not here.
    """
    if build.manifest.part is not None:
        raise SessionError(
            "This directory is a part of a model.",
            where=build.path,
            found=f"part {build.manifest.part.index} of {build.manifest.part.count}",
            expected="the directory that all of its parts are in",
            fix=f"name {build.path.resolve().parent}",
        )
    if build.manifest.parts:
        return session_from_parts(build, options)
    if build.manifest.backend == "onnxruntime":
        return session_from_cpu_engine(build, options)
    from r1trt.runtime.tensorrt_session import session_from_tensorrt_engine

    return session_from_tensorrt_engine(build)


def session_from_parts(build: BuildArtifact, options: LoadOptions | None = None) -> Session:
    """Load a model in parts, which run in turn in this process.

    Raises:
        ArtifactError: A part is missing, changed, of another build or in another's place.
        UnavailableError: The parts are for GPUs, or the largest of them does not fit into memory.
    """
    if build.manifest.backend != "onnxruntime":
        raise UnavailableError(
            "Parts for GPUs do not run in one process yet.",
            where=build.path,
            found=f"parts for --arch {build.manifest.arch}",
            expected="parts for --arch cpu",
            fix="validate their arithmetic with r1trt validate, or build them for --arch cpu",
        )
    return session_of_parts(build, options or LoadOptions(), session_from_part)


def session_of_parts(
    build: BuildArtifact,
    options: LoadOptions,
    opened: Callable[[BuildArtifact, LoadOptions], OnnxRuntimeSession],
) -> Session:
    """Load a model in parts, each by a function of its own.

    Args:
        build: The directory that the parts are in.
        options: How ONNX Runtime loads them, and how much memory they may take.
        opened: Loads one part.

    Raises:
        ArtifactError: A part is missing, changed, of another build or in another's place.
        UnavailableError: The largest part does not fit into memory.
    """
    from r1trt.runtime.parts_session import PartsSession

    parts = PartsArtifact.of(build).parts()
    return PartsSession(
        [partial(opened, part, options) for part in parts],
        [part.loaded_bytes for part in parts],
        cache_row_bytes=build.manifest.kv_cache_bytes // build.manifest.max_batch_size,
        memory=options.memory,
    )


def session_from_part(part: BuildArtifact, options: LoadOptions | None = None) -> OnnxRuntimeSession:
    """Load one part of a model: `run` takes token ids [B,S], or what the part before it gave [B,S,D].

    It gives "hidden_out" [B,S,D], or in the last part "logits"; the caches of its own layers stay inside it.

    Args:
        part: Its directory, for `--arch cpu`.
        options: How ONNX Runtime loads it.

    Raises:
        SessionError: It cannot be loaded.
    """
    from r1trt.runtime.onnxruntime_session import OnnxRuntimeSession

    return OnnxRuntimeSession(
        part.cpu_engine,
        weight_base=part.path,
        outputs=result_of_build(part),
        max_batch_size=part.manifest.max_batch_size,
        max_input_len=part.manifest.max_input_len,
        options=options or LoadOptions(),
        experts=expert_source(part),
    )


def result_of_build(build: BuildArtifact) -> dict[str, str]:
    """What a call of a build's graph returns, by name: the hidden state of a part that is not the last."""
    part = build.manifest.part
    name = LOGITS if part is None or part.index == part.count - 1 else HIDDEN_OUT
    return {name: name}


def session_from_cpu_engine(
    build: BuildArtifact, options: LoadOptions | None = None, *, graph: bytes | None = None
) -> OnnxRuntimeSession:
    """Load the engine of a build for `--arch cpu`, or another `graph` of the same weights."""
    from r1trt.runtime.onnxruntime_session import OnnxRuntimeSession

    options = options or LoadOptions()
    session = OnnxRuntimeSession(
        build.cpu_engine if graph is None else graph,
        weight_base=build.path,
        max_batch_size=build.manifest.max_batch_size,
        max_input_len=build.manifest.max_input_len,
        options=options,
        experts=expert_source(build),
    )
    use_huge_pages(options.huge_page_seconds)
    return session
