"""Step 2 of a build, type: the precision plan written into the graph, for one builder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from r1trt.build.profile import BuildLimits
from r1trt.build.target import BuildTarget
from r1trt.graph.stacks import Stacks, detach_stacks
from r1trt.passes.pipeline import AfterPass, passes_for, run_passes, simulation_passes
from r1trt.precision.plan import PrecisionPlan


@dataclass(frozen=True, kw_only=True)
class BuildGraphs:
    """The graphs of a build; weights are still lazy.

    Attributes:
        engine: What the builder gets, or what ONNX Runtime runs.
        simulated: Its arithmetic for ONNX Runtime's CPU; None where that runs `engine` itself.
        stacks: Expert stacks that are inputs of both, by name.
    """

    engine: ir.Model
    simulated: ir.Model | None = None
    stacks: Stacks = field(default_factory=dict)


def graphs_from_plan(
    model: ir.Model,
    plan: PrecisionPlan,
    target: BuildTarget,
    limits: BuildLimits,
    *,
    weights: Mapping[str, ir.TensorProtocol] | None = None,
    external_experts: bool = False,
    after_pass: AfterPass | None = None,
) -> BuildGraphs:
    """Write a plan into copies of the exported graph.

    Args:
        model: Exported graph; it is left as it is.
        plan: Its plan, with all scales.
        target: What is built for.
        limits: What the engine accepts.
        weights: Quantized weights that are made already, by name; None rounds all to nearest.
        external_experts: Whether expert stacks are inputs.
        after_pass: Called with each pass's name and the graph behind it.

    Raises:
        BuildError: The graph has a form that the builder does not build correctly, or no plugin computes.
        PlanError: The plan does not fit the graph.
    """
    passes = passes_for(
        target.backend,
        plan,
        capacity=limits.capacity,
        sms=target.sms,
        weights=weights,
        external_experts=external_experts,
    )
    engine = run_passes(model, passes, after_pass=after_pass)
    if target.backend == "onnxruntime":
        return BuildGraphs(engine=engine, stacks=detach_stacks(engine))
    simulated = run_passes(engine, simulation_passes(), after_pass=after_pass)
    detach_stacks(simulated)
    return BuildGraphs(engine=engine, simulated=simulated, stacks=detach_stacks(engine))
