"""Types and scales of one layer, as a precision plan gives them; the operator says which it may be given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from r1trt.errors import PlanError
from r1trt.graph.weights import Scale

Precision = Literal["fp8_e4m3", "int8", "int4", "bf16", "fp32", "int64"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FP8: Precision = "fp8_e4m3"
INT8: Precision = "int8"
INT4: Precision = "int4"
QUANTIZED: tuple[Precision, ...] = (FP8, INT8, INT4)
"""Types whose values are codes times scales."""
WIDE: tuple[Precision, ...] = ("bf16", "fp32")
CacheType = Literal["fp32", "fp16"]
CACHE_TYPES: tuple[CacheType, ...] = get_args(CacheType)
"""Types that a KV cache can have beside attention in FP32; others follow the layer's input."""
Implementation = Literal["native", "plugin"]
"""What TensorRT computes a layer by: layers of its own, or our plugin."""
IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)
SCALES = ("input_scale", "weight_scale", "mid_scale", "down_scale")


@dataclass(frozen=True, kw_only=True)
class AllowedTypes:
    """Types that an operator's layers can be given."""

    input: tuple[Precision, ...]
    weight: tuple[Precision | None, ...] = (None,)
    output: tuple[Precision, ...] = WIDE


@dataclass(frozen=True, kw_only=True)
class LayerPrecision:
    """Types and scales of one layer.

    Attributes:
        op: Operator type of the ONNX node.
        input: Type of the activations that enter. `fp8_e4m3` or `int8`: quantized in front of the layer.
        weight: Type of the weights; None for a layer without any.
        output: Type of the result, and of the activations before they are quantized.
        input_scale: Static scale of a quantized input; None until calibrated.
        weight_scale: Scale of quantized weights, one number or one for each index of `weight_axis`; of
            experts that of `w_gate_up`, one an expert and last the shared expert's.
        weight_axis: Axis of the weight that `weight_scale` runs along; None for a single scale.
        block_size: Neighbours along a row of an `int8` or `int4` weight that share a scale, which is found
            while the weight is written. An `int8` input is then quantized as it comes, in the same blocks.
        mid_scale: Experts: scale of the FP8 input of `w_down`.
        down_scale: Experts: scales of `w_down`, in the same order.
        shared_weight: Experts: type of the shared expert's weights.
        cache: Attention: type of the KV cache where the plan chooses it; None means that of `input`.
        own_scales: Experts: the weights are the checkpoint's own FP8, with the scales of its blocks; an FP8
            input is then quantized as it comes, one scale for 128 neighbours of a token.
        weight_error: What quantizing the checkpoint's own FP8 again changes: the root mean square of the
            difference over that of the weights.
        internals: What is known of the arithmetic inside a fused layer.
        implementation: What computes it in TensorRT; None for layers that have no plugin, and for builders
            that take none.
        reason: Why these types.
    """

    op: str
    input: Precision
    weight: Precision | None = None
    output: Precision
    input_scale: float | None = None
    weight_scale: Scale | None = None
    weight_axis: int | None = None
    block_size: int | None = None
    mid_scale: float | None = None
    down_scale: Scale | None = None
    shared_weight: Precision | None = None
    cache: CacheType | None = None
    own_scales: bool = False
    weight_error: float | None = None
    internals: str | None = None
    implementation: Implementation | None = None
    reason: str

    def __post_init__(self) -> None:
        problems = [problem for name in SCALES for problem in _scale_problems(name, getattr(self, name))]
        if not self.reason.strip():
            problems.append("reason is empty")
        require_usable(self.op, problems)

    @property
    def quantizes_input(self) -> bool:
        """Whether the layer's products are of codes: FP8 x FP8, or INT8 x INT8."""
        return self.input in QUANTIZED

    @property
    def cache_type(self) -> Precision | CacheType:
        """Type that the layer's KV cache is kept in, where it has one."""
        return self.cache or self.input

    @property
    def finds_scales(self) -> bool:
        """Whether all scales come from elsewhere than the plan: the checkpoint, or the blocks themselves."""
        return self.own_scales or self.block_size is not None

    @property
    def quantizes_weight(self) -> bool:
        """Whether the layer's weights are stored as codes: FP8, INT8 or INT4."""
        return self.weight in QUANTIZED


def require_usable(op: str, problems: list[str]) -> None:
    """Refuse a layer with problems.

    Raises:
        PlanError: Lists them.
    """
    if problems:
        raise PlanError(f"A layer of type {op} is not usable: {'; '.join(problems)}.")


def _scale_problems(name: str, scale: Scale | None) -> Iterator[str]:
    values = () if scale is None else scale if isinstance(scale, tuple) else (scale,)
    bad = [(index, value) for index, value in enumerate(values) if not math.isfinite(value) or value <= 0]
    if bad:
        index, value = bad[0]
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        yield f"{name} has {value} at {index}{more}; scales are finite and above 0"
