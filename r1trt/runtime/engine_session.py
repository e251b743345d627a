"""Sessions of build directories; what a server loads.

The backends are imported when they are needed: a machine has the libraries of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from r1trt.artifacts.build import BuildArtifact
from r1trt.runtime.expert_stacks import stacks_in_memory
from r1trt.runtime.huge_pages import use_huge_pages
from r1trt.runtime.onnxruntime_model import LoadOptions
from r1trt.runtime.session import Session

if TYPE_CHECKING:
    from r1trt.runtime.onnxruntime_session import OnnxRuntimeSession


def session_from_build(build: BuildArtifact, options: LoadOptions | None = None) -> Session:
    """Load a build's engine, whichever backend it is for.

    Args:
        build: The build.
        options: How ONNX Runtime loads a CPU's engine.

    Raises:
        SessionError: The engine cannot be loaded.
        UnavailableError: It needs a GPU or a library that is not here.
    """
    if build.manifest.backend == "onnxruntime":
        return session_from_cpu_engine(build, options)
    from r1trt.runtime.tensorrt_session import session_from_tensorrt_engine

    return session_from_tensorrt_engine(build)


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
        stacks=stacks_in_memory(build),
    )
    use_huge_pages(options.huge_page_seconds)
    return session
