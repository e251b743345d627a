"""`tensorrt` and `tensorrt_rtx`: one builder interface, and the little that differs between them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from r1trt.arch import LIBRARIES, Library
from r1trt.cuda_driver import compute_capabilities
from r1trt.errors import BuildError
from r1trt.lifetime.children import child_group

_PROBE_TIMEOUT_S = 120
NATIVE_LAYERS = ("add_attention", "add_kv_cache_update", "add_rotary_embedding")
ALIASED_PLUGIN_IO = "ALIASED_PLUGIN_IO_10_03"


@dataclass(frozen=True, kw_only=True)
class BuilderApi:
    """What differs between the two builders.

    Attributes:
        library: What brings it.
        names_target: Whether the target GPU is named; else it is the GPU in the machine.
        has_plugins: Whether nodes without a body can become plugins.
    """

    library: Library
    names_target: bool
    has_plugins: bool

    @property
    def module(self) -> str:
        """Name to import."""
        return self.library.module


BUILDER_APIS: Mapping[str, BuilderApi] = MappingProxyType(
    {
        "tensorrt": BuilderApi(library=LIBRARIES["tensorrt"], names_target=False, has_plugins=True),
        "tensorrt-rtx": BuilderApi(library=LIBRARIES["tensorrt-rtx"], names_target=True, has_plugins=False),
    }
)


def backend_available(backend: str) -> str | None:
    """Why this machine cannot build with `backend`; None where it can.

    The import is tried in a child process: a broken installation may print, or crash. ONNX Runtime builds
    nothing: it runs the graph.
    """
    if backend == "onnxruntime":
        return None
    api = BUILDER_APIS[backend]
    program = f"import {api.module} as trt; trt.Builder; trt.OnnxParser; print(trt.__version__)"
    try:
        child = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            process_group=child_group(),
        )
    except subprocess.TimeoutExpired:
        return f"importing {api.module} did not end within {_PROBE_TIMEOUT_S} s"
    if child.returncode != 0:
        lines = child.stderr.strip().splitlines() or [f"exit status {child.returncode}"]
        return f"{api.module} cannot be imported ({lines[-1]}); the package is {api.library.package}"
    if not api.names_target and not compute_capabilities():
        return f"{api.module} tunes its engines on the target GPU, and there is no usable NVIDIA GPU here"
    return None


def require_native_layers(trt: Any) -> None:
    """Refuse a library without attention, cache update and rotary embedding of its own.

    Raises:
        BuildError: It is older than TensorRT 10.15.
    """
    missing = [name for name in NATIVE_LAYERS if not hasattr(trt.INetworkDefinition, name)]
    if missing:
        raise BuildError(
            "This TensorRT is too old for layers that the precision plan gives it.",
            found=f"TensorRT {trt.__version__}, without {', '.join(missing)}",
            expected="TensorRT 10.15 or newer",
            fix="install a newer one, or build from the export with --plugins all",
        )


def network_flags(trt: Any) -> int:
    """Creation flags: strongly typed. Newer versions know nothing else and drop the flag."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def configure(trt: Any, api: BuilderApi, config: Any, sm: int) -> None:
    """Set what every build sets.

    Raises:
        BuildError: The library does not know the target.
    """
    tf32 = getattr(trt.BuilderFlag, "TF32", None)
    if tf32 is not None:
        config.clear_flag(tf32)  # on by default, and it would take 13 bits from the FP32 router
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if api.has_plugins and hasattr(trt.PreviewFeature, ALIASED_PLUGIN_IO):
        # Without it the builder never asks which output of a plugin updates an input in place.
        config.set_preview_feature(getattr(trt.PreviewFeature, ALIASED_PLUGIN_IO), True)
    if not api.names_target:
        return
    capability = getattr(trt.ComputeCapability, f"SM{sm}", None)
    if capability is None:
        known = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
        raise BuildError(f"{api.module} does not build for SM{sm}.", expected=", ".join(known))
    config.num_compute_capabilities = 1
    config.set_compute_capability(capability, 0)
