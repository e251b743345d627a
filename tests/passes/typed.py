"""Graphs on their way through the lists of passes, for tests of one stretch of it."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.arch import Backend
from r1trt.passes.check_onnx import CheckOnnxPass
from r1trt.passes.pipeline import Passes, run_passes, simulation_passes, typing_passes
from r1trt.passes.remove_cache import RemoveCachePass
from r1trt.passes.set_bodies import SetBodiesPass
from r1trt.passes.set_capacity import SetCapacityPass
from r1trt.precision.plan import PrecisionPlan


def typed_model_from_plan(model: ir.Model, plan: PrecisionPlan, backend: Backend) -> ir.Model:
    """A plan in a copy of a graph of any capacity, its operators calls of the backend's bodies."""
    bodies: Passes = []
    if backend == "tensorrt-rtx":
        bodies = [SetBodiesPass("tensorrt-rtx")]
    elif backend == "onnxruntime":
        bodies = [SetBodiesPass("onnxruntime", "tensorrt-rtx")]
    return run_passes(model, [*typing_passes(plan, {}), *bodies, CheckOnnxPass()])


def simulated_model_from_typed(typed: ir.Model) -> ir.Model:
    return run_passes(typed, simulation_passes())


def model_without_cache(model: ir.Model) -> ir.Model:
    return run_passes(model, [RemoveCachePass(), SetBodiesPass("onnxruntime")])


def model_with_capacity(model: ir.Model, capacity: int) -> ir.Model:
    return run_passes(model, [SetCapacityPass(capacity), SetBodiesPass("onnxruntime")])
