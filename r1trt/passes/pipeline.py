"""The order in which an exported graph is typed: one visible list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from r1trt.errors import PlanError
from r1trt.lowerings.bodies import set_bodies
from r1trt.passes.cancel_casts import CancelCastsPass
from r1trt.passes.check_typed import CheckTypedPass, check_onnx
from r1trt.passes.realize_layers import RealizeLayersPass
from r1trt.passes.retype_interface import RetypeInterfacePass
from r1trt.passes.share_conversions import ShareConversionsPass
from r1trt.precision.checks import check_plan_fits_model
from r1trt.precision.plan import PrecisionPlan

TypedBackend = Literal["onnxruntime", "tensorrt-rtx", "tensorrt"]


def typing_passes(plan: PrecisionPlan) -> list[ir.passes.InPlacePass]:
    """The passes that write a plan into a graph, in order."""
    return [
        # Phase 1: each layer in its planned types; values between layers stay FLOAT.
        RetypeInterfacePass(plan),
        RealizeLayersPass(plan),
        # Phase 2: layers that agree on a type hand it on directly.
        CancelCastsPass(),
        ShareConversionsPass(),
        # Phase 3: what nothing reads any more goes, and the result is checked.
        RemoveUnusedNodesPass(),
        CheckTypedPass(),
    ]


def typed_model_from_plan(
    model: ir.Model,
    plan: PrecisionPlan,
    backend: TypedBackend,
    *,
    after_pass: Callable[[str, ir.Model], None] | None = None,
) -> ir.Model:
    """Write a plan into a copy of the exported graph.

    Args:
        model: Exported graph; its external tensors know their base directory. It is left as it is.
        plan: A plan for this graph with all scales.
        backend: Whose bodies the three operators get; "tensorrt" takes plugins and gets none.
        after_pass: Called with each pass's name and the graph behind it, for dumps.

    Returns:
        A graph of plain typed nodes, weights still lazy: `write_typed_model` streams them.

    Raises:
        PlanError: The plan does not fit the graph, or lacks scales.
    """
    check_plan_fits_model(plan, model)
    if plan.missing_scales:
        raise PlanError(
            "The precision plan has no scales yet.",
            found=f"{len(plan.missing_scales)} open, first {plan.missing_scales[0]}",
            fix="calibrate the plan first",
        )
    typed = model.clone()
    typed.functions.clear()
    for node in typed.graph:
        node.overload = ""
    for step in typing_passes(plan):
        typed = step(typed).model
        if after_pass is not None:
            after_pass(type(step).__name__, typed)
    if backend != "tensorrt":
        set_bodies(typed, backend)
    check_onnx(typed)
    return typed
