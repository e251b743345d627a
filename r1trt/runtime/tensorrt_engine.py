"""Loading a serialized engine with TensorRT or TensorRT-RTX.

Not executed yet: this module was written on machines without an NVIDIA GPU. What can be checked there is
tested: that a missing library, driver or engine is reported as such, and that the bindings have these calls.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1trt.arch import LIBRARIES, Backend
from r1trt.artifacts.build import BuildArtifact
from r1trt.errors import UnavailableError
from r1trt.files import open_file
from r1trt.runtime.cuda_memory import compute_capability
from r1trt.runtime.session import SessionError


@dataclass(frozen=True, kw_only=True)
class EngineFile:
    """A serialized engine and what it loads with.

    Attributes:
        path: The engine.
        backend: "tensorrt" or "tensorrt-rtx".
        plugin_libraries: Plugin libraries that it needs.
        host_code: Whether it may carry code for the CPU, as an embedded plugin library is; it is run.
    """

    path: Path
    backend: Backend
    plugin_libraries: Sequence[Path] = ()
    host_code: bool = False


def engine_file_from_build(build: BuildArtifact, cudart: Any) -> EngineFile:
    """The engine of a build that fits this machine's GPU.

    Raises:
        UnavailableError: The build was made for other GPUs, or no engine was built.
    """
    sm = compute_capability(cudart)
    if sm not in build.engines:
        built = ", ".join(f"SM{other}" for other in build.engines)
        raise UnavailableError(
            "The build has no engine for this machine's GPU.",
            where=build.path,
            found=f"SM{sm} here; engines for {built or 'none'}",
            fix="build with --arch of this GPU",
        )
    return EngineFile(
        path=build.engines[sm],
        backend=build.manifest.backend,
        plugin_libraries=build.plugin_libraries,
        host_code=build.manifest.embeds_plugins,
    )


def _bytes_of(path: Path) -> bytes:
    with open_file(path, error=SessionError, fix="build it again") as file:
        return file.read()


def load_engine(file: EngineFile, trt: Any) -> tuple[Any, Any]:
    """TensorRT's runtime and the engine; the runtime has to live as long as the engine.

    Raises:
        SessionError: The engine is missing, or of another version or GPU.
    """
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    runtime.engine_host_code_allowed = file.host_code
    for library in file.plugin_libraries:
        # Refused, with a message, where another session loaded these plugins before; then those are used.
        runtime.get_plugin_registry().load_library(str(library))
    if not file.path.is_file():
        raise SessionError("There is no such engine.", where=file.path, fix="build it again")
    engine = runtime.deserialize_cuda_engine(_bytes_of(file.path))
    if engine is None:
        raise SessionError(
            "TensorRT cannot load the engine.",
            where=file.path,
            expected=f"an engine for this GPU and this version of {file.backend}",
            fix="see TensorRT's own message above; build again with --arch of this machine's GPU",
        )
    return runtime, engine


def require_float_logits(engine: Any, names: Sequence[str], trt: Any, where: Path) -> None:
    """Refuses an engine whose interface is not the toolchain's."""
    if "logits" not in names or engine.get_tensor_dtype("logits") != trt.float32:
        raise SessionError(
            "The engine's interface is not the toolchain's.",
            where=where,
            found=f"tensors {list(names)}",
            expected="an FP32 output 'logits'",
        )


def tensorrt_module(backend: Backend) -> Any:
    """Import a backend's Python module.

    Raises:
        UnavailableError: It is not installed.
    """
    try:
        return importlib.import_module(LIBRARIES[backend].module)
    except ImportError as error:
        raise UnavailableError(
            f"The engine needs {backend}, which is not installed.",
            fix=f"pip install {LIBRARIES[backend].package}, then run the command again",
        ) from error
