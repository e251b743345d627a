"""Measuring a build for the CPU: times of its calls, and what ONNX Runtime's profiler says of its nodes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import onnx_ir as ir

from r1trt.artifacts.build import BuildArtifact
from r1trt.graph.load import model_from_onnx_file
from r1trt.graph.network_view import plan_key
from r1trt.lifetime.temporary import temporary_directory
from r1trt.machine import cores, processor_name
from r1trt.passes.inline_bodies import name_bodies
from r1trt.precision.plan import PrecisionPlan
from r1trt.profile.measured import Measured
from r1trt.profile.onnxruntime_events import node_seconds
from r1trt.profile.requests import RequestBatch
from r1trt.profile.rounds import phases_of_calls
from r1trt.profile.runs import timed_calls
from r1trt.progress import Progress
from r1trt.runtime.engine_session import session_from_cpu_engine
from r1trt.runtime.onnxruntime_model import LoadOptions, onnxruntime_module


def measured_on_cpu(
    build: BuildArtifact,
    plan: PrecisionPlan,
    requests: RequestBatch,
    *,
    repeats: int,
    threads: int | None,
    progress: Progress,
) -> Measured:
    """Runs a batch twice: with nothing but a clock, then with the profiler.

    Args:
        build: A finished build for `--arch cpu`.
        plan: Its plan.
        requests: What is answered.
        repeats: Prefills, of which the median counts.
        threads: CPU threads; None takes one for each core that may be used.
        progress: Called with (phase, done, total).

    Raises:
        R1TrtError: The build is damaged, or the batch does not fit it.
    """
    build.require_finished()
    build.require_whole()
    session = session_from_cpu_engine(build, LoadOptions(threads=threads))
    plain = list(timed_calls(session, requests, repeats=repeats, progress=progress))
    session.close()
    with temporary_directory("profile") as directory:
        options = LoadOptions(threads=threads, profile=directory / "onnxruntime")
        session = session_from_cpu_engine(build, options, graph=_graph_with_names(build.cpu_engine))
        profiled = list(timed_calls(session, requests, repeats=repeats, progress=progress))
        nodes = node_seconds(session.end_profile(), len(profiled))
        session.close()
    count = threads or cores()
    return Measured(
        backend=f"onnxruntime {onnxruntime_module().__version__}",
        where=f"{processor_name()}, {count} thread{'s' if count > 1 else ''}",
        phases=phases_of_calls(plain, list(zip(profiled, nodes, strict=True)), partial(_layers, plan)),
    )


def _layers(plan: PrecisionPlan, name: str) -> tuple[str, ...]:
    key = plan_key(name, plan.layers)
    return () if key is None else (key,)


def _graph_with_names(path: Path) -> bytes:
    """The engine's graph with a body for each call.

    ONNX Runtime inlines bodies, and keeps the names in them: those of a call's own body tell its layer.
    """
    model = model_from_onnx_file(path)
    name_bodies(model)
    return bytes(ir.to_proto(model).SerializeToString())
