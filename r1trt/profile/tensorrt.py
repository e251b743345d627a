"""Measuring a build for a GPU: times of its calls, and what TensorRT's profiler says of its layers.

Not executed yet: this module was written on machines without an NVIDIA GPU. What can be checked there is
tested: that the bindings have these calls, and how layers' names and descriptions are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from r1trt.artifacts.build import BuildArtifact
from r1trt.build.read_back import nodes_of_metadata
from r1trt.cuda_driver import cuda_driver
from r1trt.graph.network_view import plan_key
from r1trt.precision.plan import PrecisionPlan
from r1trt.profile.measured import Measured
from r1trt.profile.requests import RequestBatch
from r1trt.profile.rounds import ProfiledCall, phases_of_calls
from r1trt.profile.runs import timed_calls
from r1trt.progress import Progress
from r1trt.runtime.session import SessionError
from r1trt.runtime.tensorrt_engine import tensorrt_module
from r1trt.runtime.tensorrt_session import session_from_tensorrt_engine

_FUSED = " + "
_PROFILE = re.compile(r" \[profile \d+\]$")
"""Behind the names of the layers of all optimization profiles but the first."""


def measured_on_gpu(
    build: BuildArtifact,
    plan: PrecisionPlan,
    requests: RequestBatch,
    *,
    repeats: int,
    progress: Progress,
) -> Measured:
    """Runs a batch twice: with nothing but a clock, then with TensorRT's profiler.

    Args:
        build: A finished build whose code may run.
        plan: Its plan.
        requests: What is answered.
        repeats: Prefills, of which the median counts.
        progress: Called with (phase, done, total).

    Raises:
        UnavailableError: There is no GPU here that the build was made for, or no TensorRT.
        SessionError: The engine cannot be loaded, or the batch does not fit it.
    """
    trt = tensorrt_module(build.manifest.backend)
    session = session_from_tensorrt_engine(build)
    plain = list(timed_calls(session, requests, repeats=repeats, progress=progress))
    layers = layers_of_engine(session.description(trt), plan)
    profiler = layer_profiler(trt)
    session.profile_with(profiler)
    profiled: list[ProfiledCall] = []
    for call in timed_calls(session, requests, repeats=repeats, progress=progress):
        profiled.append((call, profiler.take()))
    session.close()
    return Measured(
        backend=f"{build.manifest.backend} {trt.__version__}",
        where=cuda_driver().gpus[0].name,
        phases=phases_of_calls(plain, profiled, lambda name: layers.get(name, ())),
    )


def layer_profiler(trt: Any) -> Any:
    """An `IProfiler` that adds up the seconds of each layer; `take()` returns the sums and begins anew.

    Args:
        trt: TensorRT's module, whose class it has to extend.
    """

    class LayerProfiler(trt.IProfiler):  # type: ignore[misc]  # a class of bindings without types
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self._seconds: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self._seconds[layer_name] = self._seconds.get(layer_name, 0.0) + ms / 1000

        def take(self) -> Mapping[str, float]:
            taken, self._seconds = self._seconds, {}
            return taken

    return LayerProfiler()


def layers_of_engine(description: str, plan: PrecisionPlan) -> dict[str, tuple[str, ...]]:
    """Which layers of a plan each layer of an engine computes, by the engine layer's name.

    Args:
        description: What TensorRT's inspector says of the engine, as JSON.
        plan: The engine's plan.

    Raises:
        SessionError: The description is of another form.
    """
    try:
        layers = json.loads(description)["Layers"]
        named = [_name_and_metadata(layer) for layer in layers]
    except (ValueError, KeyError, TypeError) as error:
        raise SessionError(
            "TensorRT's description of the engine is of another form.",
            found=f"{type(error).__name__}: {error}",
            expected="an object with a list of layers",
        ) from error
    found: dict[str, tuple[str, ...]] = {}
    for name, described in named:
        nodes = nodes_of_metadata(described) or _PROFILE.sub("", name).split(_FUSED)
        keys = (plan_key(node.strip(), plan.layers) for node in nodes)
        found[name] = tuple(dict.fromkeys(filter(None, keys)))
    return found


def _name_and_metadata(described: Any) -> tuple[str, str]:
    """An engine without details lists names alone."""
    if isinstance(described, str):
        return described, ""
    return str(described["Name"]), str(described.get("Metadata", ""))
