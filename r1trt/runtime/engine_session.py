"""Sessions of build directories; what a server loads.

The backends are imported when they are needed: a machine has the libraries of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1trt.runtime.onnxruntime_model import LoadOptions
from r1trt.runtime.session import Session


def session_from_build(
    directory: Path, manifest: Mapping[str, Any], options: LoadOptions | None = None
) -> Session:
    """Load a build's engine, whichever backend it is for.

    Args:
        directory: Build directory.
        manifest: Its manifest.
        options: How ONNX Runtime loads a CPU's engine.

    Raises:
        SessionError: The engine cannot be loaded.
        UnavailableError: It needs a GPU or a library that is not here.
    """
    if manifest["backend"] == "onnxruntime":
        return session_from_cpu_engine(directory, manifest, options)
    from r1trt.runtime.tensorrt_session import session_from_tensorrt_engine

    return session_from_tensorrt_engine(directory, manifest)


def session_from_cpu_engine(
    directory: Path, manifest: Mapping[str, Any], options: LoadOptions | None = None
) -> Session:
    """Load `cpu.onnx` of a build directory for `--arch cpu`."""
    from r1trt.runtime.onnxruntime_session import OnnxRuntimeSession

    return OnnxRuntimeSession(
        directory / "cpu.onnx",
        max_batch_size=manifest["max_batch_size"],
        max_input_len=manifest["max_input_len"],
        options=options,
    )
