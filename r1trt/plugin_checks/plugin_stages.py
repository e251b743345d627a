"""Stages `harness` and `graph`: every plugin's enqueue, called as by TensorRT and replayed from a graph."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from r1trt.plugin_checks.build import Built
from r1trt.plugin_checks.check import LOST
from r1trt.plugin_checks.context import Context, Result
from r1trt.plugin_checks.device_kernels import DeviceKernels
from r1trt.plugin_checks.harness.driver import TENSORRT_11, Harness, PluginLibraryUnderTest
from r1trt.plugin_checks.memory import Memory
from r1trt.plugin_checks.plugin_layers import Arrays, PluginCase, PluginRun, plugin_cases

REPLAYS = 3
TOLERANCE = (
    "`errors`: the largest |output - FP64| over what is allowed: `tolerance` times the largest element, with "
    "FP8 what the reference allows for that element; 1 is the limit"
)

One = Callable[[PluginLibraryUnderTest, Memory, PluginCase, np.random.Generator], Result]


def run_harness(context: Context, built: Built, previous: Result | None) -> Result:
    """Enqueues every plugin on fresh tensors."""
    return _each_case(context, built, previous, _enqueued)


def run_graph(context: Context, built: Built, previous: Result | None) -> Result:
    """Captures every plugin's enqueue once, and replays it on tensors, lengths and routings that changed."""
    return _each_case(context, built, previous, _replayed)


def _each_case(context: Context, built: Built, previous: Result | None, one: One) -> Result:
    done: list[dict[str, Any]] = list(previous["cases"]) if previous else []
    names = {item["name"] for item in done}
    harness = Harness(built.harness)
    harness.set_version(TENSORRT_11)
    plugins = harness.open(built.plugins)
    memory = DeviceKernels(built.kernels, on_gpu=context.on_gpu).memory
    for case in plugin_cases(context.sm):
        if case.name in names:
            continue
        if context.budget.left <= 0:
            return _result(memory, done, finished=False)
        done.append(_entry(plugins, memory, case, context.seed, one))
        context.log(f"{'passed' if done[-1]['passed'] else 'FAILED'}  {case.name}")
        context.save(_result(memory, done, finished=False))
        if not memory.answers:
            context.log(LOST)
            return _result(memory, done, finished=False)
    return _result(memory, done, finished=True)


def _entry(plugins: PluginLibraryUnderTest, memory: Memory, case: PluginCase, seed: int, one: One) -> Result:
    begin = time.monotonic()
    generator = np.random.default_rng([seed, *case.name.encode()])
    entry: Result = {"name": case.name, "tolerance": case.tolerance, "passed": False}
    try:
        entry |= one(plugins, memory, case, generator)
    except (AssertionError, RuntimeError) as error:
        entry["why"] = str(error)
    errors = entry.get("errors", [])
    entry["passed"] = "why" not in entry and bool(errors) and max(errors) <= 1
    if not entry["passed"]:
        entry.setdefault("why", f"errors over the tolerance: {errors}")
    entry["errors"] = [error if math.isfinite(error) else None for error in errors]
    return {**entry, "seconds": round(time.monotonic() - begin, 2)}


def _enqueued(
    plugins: PluginLibraryUnderTest, memory: Memory, case: PluginCase, generator: np.random.Generator
) -> Result:
    arrays = case.draw(case.layer, generator)
    run = PluginRun(plugins, memory, case, arrays)
    run.enqueue()
    memory.synchronize()
    return {"errors": [run.error(arrays)]}


def _replayed(
    plugins: PluginLibraryUnderTest, memory: Memory, case: PluginCase, generator: np.random.Generator
) -> Result:
    arrays = case.draw(case.layer, generator)
    run = PluginRun(plugins, memory, case, arrays)
    run.enqueue()  # loads the kernels, which a capture does not allow
    memory.synchronize()
    replay = memory.captured(run.enqueue)
    errors, changed = [], []
    for _ in range(REPLAYS):
        before, arrays = arrays, case.draw(case.layer, generator)
        changed.append(_changed(before, arrays))
        run.set_inputs(arrays)
        memory.synchronize()
        replay()
        memory.synchronize()
        errors.append(run.error(arrays))
    return {"errors": errors, "changed": changed}


def _changed(before: Arrays, after: Arrays) -> dict[str, Any]:
    """What a replay finds otherwise than the one before it."""
    found: dict[str, Any] = {name: after[name].tolist() for name in ("past_len", "seq_len") if name in after}
    if "w_router" in after:
        first = [np.argmax(_logits(arrays), -1) for arrays in (before, after)]
        found["tokens_of_another_expert"] = int((first[0] != first[1]).sum())
    return found


def _logits(arrays: Arrays) -> np.ndarray:
    return np.asarray(arrays["x"].astype(np.float64) @ arrays["w_router"].astype(np.float64).T)


def _result(memory: Memory, done: list[dict[str, Any]], *, finished: bool) -> Result:
    failures = [{"name": item["name"], "why": item["why"]} for item in done if not item["passed"]]
    captured = memory.captures
    return {
        "finished": finished,
        "tolerance": TOLERANCE,
        "cuda_graph": captured,
        "cases": done,
        "failures": failures,
    }
