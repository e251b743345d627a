"""What can be measured inside an operator, and how: an entry for each scale, and for what experts do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import onnx_ir as ir

from r1trt.errors import PlanError
from r1trt.lowerings.expert_saliency import saliency_function, saliency_inputs
from r1trt.lowerings.routed_counts import routed_counts_function, routed_inputs
from r1trt.lowerings.statistics import Statistic, mid_inputs, mid_statistic_function
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.operator import Operator


@dataclass(frozen=True, kw_only=True)
class InnerStatistic:
    """How a value inside an operator is measured.

    Attributes:
        inputs: The operator's inputs that the value is made of, in the function's order, for a node's spec.
        function: The function of a node's spec, a statistic and an overload. It takes `inputs` and the N
            candidate scales, and gives FLOAT [N].
    """

    inputs: Callable[[Any], tuple[str, ...]]
    function: Callable[[Any, Statistic, str], ir.Function]


ROUTED_TOKENS = "routed_tokens"
"""No scale: how many tokens each expert is given."""
EXPERT_SALIENCY = "expert_saliency"
"""No scale: the sum over each expert's tokens of its weight times the norm of its result."""

# By the names of the operator and of the scale, one of its `input_scales`, or one of those above.
INNER_STATISTICS: Mapping[tuple[str, str], InnerStatistic] = MappingProxyType(
    {
        (DYNAMIC_MOE.name, "mid_scale"): InnerStatistic(inputs=mid_inputs, function=mid_statistic_function),
        (DYNAMIC_MOE.name, ROUTED_TOKENS): InnerStatistic(
            inputs=routed_inputs, function=routed_counts_function
        ),
        (DYNAMIC_MOE.name, EXPERT_SALIENCY): InnerStatistic(
            inputs=saliency_inputs, function=saliency_function
        ),
    }
)


def inner_statistic(operator: Operator[Any], scale: str) -> InnerStatistic:
    """How the value of one of an operator's scales is measured.

    Raises:
        PlanError: Nothing measures it.
    """
    found = INNER_STATISTICS.get((operator.name, scale))
    if found is None:
        scales = (pair for pair in INNER_STATISTICS if pair[1] not in (ROUTED_TOKENS, EXPERT_SALIENCY))
        known = ", ".join(f"{inner} of {name}" for name, inner in scales)
        raise PlanError(
            "Calibration does not measure this scale.",
            found=f"{scale} of {operator.name}",
            expected=f"input_scale, or {known}",
            fix="give the scale in the plan",
        )
    return found
