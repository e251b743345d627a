"""Step 2 of a build, type: the precision plan written into the graph, for one builder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from r1trt.build.builder_api import BUILDER_APIS
from r1trt.build.onnxruntime import cpu_model_from_plan
from r1trt.build.profile import BuildLimits
from r1trt.build.target import BuildTarget
from r1trt.passes.check_builder_forms import require_no_traps
from r1trt.passes.inline_bodies import inlined_model
from r1trt.passes.name_absent_inputs import name_absent_inputs, require_plugin_types
from r1trt.passes.pipeline import typed_model_from_plan
from r1trt.passes.remove_cache import model_without_cache
from r1trt.passes.set_capacity import model_with_capacity
from r1trt.passes.simulate import simulated_model_from_typed
from r1trt.precision.plan import PrecisionPlan

AfterPass = Callable[[str, ir.Model], None]


@dataclass(frozen=True, kw_only=True)
class BuildGraphs:
    """The graphs of a build; weights are still lazy.

    Attributes:
        engine: What the builder gets, or what ONNX Runtime runs.
        simulated: Its arithmetic for ONNX Runtime's CPU; None where that runs `engine` itself.
    """

    engine: ir.Model
    simulated: ir.Model | None = None


def graphs_from_plan(
    model: ir.Model,
    plan: PrecisionPlan,
    target: BuildTarget,
    limits: BuildLimits,
    *,
    after_pass: AfterPass | None = None,
) -> BuildGraphs:
    """Write a plan into copies of the exported graph.

    Args:
        model: Exported graph; it is left as it is.
        plan: Its plan, with all scales.
        target: What is built for.
        limits: What the engine accepts.
        after_pass: Called with each pass's name and the graph behind it.

    Raises:
        BuildError: The graph has a form that the builder does not build correctly, or no plugin computes.
        PlanError: The plan does not fit the graph.
    """
    sized = (
        model_without_cache(model) if limits.capacity is None else model_with_capacity(model, limits.capacity)
    )
    if target.backend == "onnxruntime":
        return BuildGraphs(engine=cpu_model_from_plan(sized, plan))
    typed = typed_model_from_plan(sized, plan, target.backend, after_pass=after_pass)
    has_plugins = BUILDER_APIS[target.backend].has_plugins
    if not has_plugins:
        typed = inlined_model(typed)
    require_no_traps(typed, target.backend, target.sms)
    if not has_plugins:
        return BuildGraphs(engine=typed, simulated=simulated_model_from_typed(typed))
    require_plugin_types(typed)
    # Before the absent inputs go: the simulation gives the operators their bodies, which know all of them.
    simulated = simulated_model_from_typed(typed)
    name_absent_inputs(typed)
    return BuildGraphs(engine=typed, simulated=simulated)
