"""Refuse a plan that does not belong to the graph, before anything is written into it."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.errors import PlanError
from r1trt.precision.checks import check_plan_fits_model
from r1trt.precision.plan import PrecisionPlan


class CheckPlanPass(ir.passes.InPlacePass):
    """Compare a plan with the exported graph's layers; changes nothing."""

    def __init__(self, plan: PrecisionPlan) -> None:
        super().__init__()
        self._plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raises PlanError where the plan does not fit the graph, or lacks scales."""
        check_plan_fits_model(self._plan, model)
        missing = self._plan.missing_scales
        if missing:
            raise PlanError(
                "The precision plan has no scales yet.",
                found=f"{len(missing)} open, first {missing[0]}",
                fix="calibrate the plan first",
            )
        return ir.passes.PassResult(model, False)
