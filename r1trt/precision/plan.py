"""`PrecisionPlan`: which types and scales each layer of an exported graph runs with, and why.

A plan belongs to one model and one architecture. Its layers are keyed by ONNX node name. It does nothing
by itself: `r1trt.passes` writes it into the graph, and what the builder made of it is read back and compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Literal, get_args

import onnx_ir as ir

from r1trt.errors import PlanError

Precision = Literal["fp8_e4m3", "bf16", "fp32", "int64"]
PlanKind = Literal["fp8", "bf16", "fp32"]
Scale = float | tuple[float, ...]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
PLAN_KINDS: tuple[PlanKind, ...] = get_args(PlanKind)
SCHEMA = 1

DATA_TYPES: Mapping[Precision, ir.DataType] = MappingProxyType(
    {
        "fp8_e4m3": ir.DataType.FLOAT8E4M3FN,
        "bf16": ir.DataType.BFLOAT16,
        "fp32": ir.DataType.FLOAT,
        "int64": ir.DataType.INT64,
    }
)


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What validation lets this plan lose against the FP32 reference; the plan fails above it.

    Attributes:
        kl_max: Mean KL divergence of the next-token distributions, in nats.
        perplexity_increase_max: Relative increase of perplexity, 0.05 = 5 %.
        agreement_min: Share of positions with the same most likely token.
        logits_max_relative_error: Largest |engine - simulation| over the largest |simulation| of the logits.
    """

    kl_max: float
    perplexity_increase_max: float
    agreement_min: float
    logits_max_relative_error: float

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not math.isfinite(value) or value < 0:
                raise PlanError(
                    f"Threshold '{item.name}' is not usable.", found=value, expected="a finite number >= 0"
                )
        if self.agreement_min > 1:
            raise PlanError(
                "Threshold 'agreement_min' is a share.", found=self.agreement_min, expected="at most 1"
            )


@dataclass(frozen=True, kw_only=True)
class LayerPrecision:
    """Types and scales of one layer.

    Attributes:
        op: Operator type of the ONNX node.
        input: Type of the activations that enter. `fp8_e4m3`: quantized in front of the layer.
        weight: Type of the weights; None for a layer without any.
        output: Type of the result, and of the activations before they are quantized.
        input_scale: Static scale of an FP8 input; None until calibrated.
        weight_scale: Scale of FP8 weights, one number or one for each index of `weight_axis`; for
            R1DynamicMoE that of `w_gate_up`, one an expert and last the shared expert's.
        weight_axis: Axis of the weight that `weight_scale` runs along; None for a single scale.
        mid_scale: R1DynamicMoE: scale of the FP8 input of `w_down`.
        down_scale: R1DynamicMoE: scales of `w_down`, in the same order.
        shared_weight: R1DynamicMoE: type of the shared expert's weights.
        internals: What is known of the arithmetic inside a fused layer.
        reason: Why these types.
    """

    op: str
    input: Precision
    weight: Precision | None = None
    output: Precision
    input_scale: float | None = None
    weight_scale: Scale | None = None
    weight_axis: int | None = None
    mid_scale: float | None = None
    down_scale: Scale | None = None
    shared_weight: Precision | None = None
    internals: str | None = None
    reason: str

    def __post_init__(self) -> None:
        problems = list(_layer_problems(self))
        if problems:
            raise PlanError(f"A layer of type {self.op} is not usable: {'; '.join(problems)}.")

    @property
    def quantizes_input(self) -> bool:
        """Whether the layer's products are FP8 x FP8."""
        return self.input == "fp8_e4m3"

    @property
    def quantizes_weight(self) -> bool:
        """Whether the layer's weights are stored in FP8."""
        return self.weight == "fp8_e4m3"

    @property
    def missing_scales(self) -> tuple[str, ...]:
        """Names of the scales that the types ask for and that are not known yet."""
        needed = ["input_scale"] * self.quantizes_input + ["weight_scale"] * self.quantizes_weight
        if self.op == "R1DynamicMoE":
            needed += ["mid_scale"] * self.quantizes_input + ["down_scale"] * self.quantizes_weight
        return tuple(name for name in needed if getattr(self, name) is None)


@dataclass(frozen=True, kw_only=True)
class PrecisionPlan:
    """Types and scales of a whole model.

    Attributes:
        model_hash: `graph_hash` of the exported graph that the plan was made for.
        arch: Name of the GPU architecture (`--arch`).
        precision: What was asked for.
        builder: Builder modules and their versions, as known when the plan was made.
        thresholds: What validation holds the engine to.
        calibration: How the scales were found; empty before calibration.
        layers: One entry for each layer, by ONNX node name.
    """

    model_hash: str
    arch: str
    precision: PlanKind
    builder: Mapping[str, str] = field(default_factory=dict)
    thresholds: Thresholds
    calibration: Mapping[str, str | int | float] = field(default_factory=dict)
    layers: Mapping[str, LayerPrecision]

    def __post_init__(self) -> None:
        if self.precision not in PLAN_KINDS:
            raise PlanError("Unknown precision.", found=self.precision, expected=" | ".join(PLAN_KINDS))

    @property
    def missing_scales(self) -> tuple[str, ...]:
        """`<layer>.<scale>` for every scale that calibration has still to find."""
        return tuple(f"{key}.{name}" for key, layer in self.layers.items() for name in layer.missing_scales)

    @property
    def activation(self) -> ir.DataType:
        """Type of the activations between layers: BFLOAT16 as soon as one layer asks for it."""
        narrow = any(layer.output == "bf16" for layer in self.layers.values())
        return ir.DataType.BFLOAT16 if narrow else ir.DataType.FLOAT

    @property
    def uses_fp8(self) -> bool:
        """Whether any layer computes with or stores FP8."""
        return any(layer.quantizes_input or layer.quantizes_weight for layer in self.layers.values())


@dataclass(frozen=True, kw_only=True)
class _Allowed:
    """Types that a kind of layer can be given."""

    input: tuple[Precision, ...]
    weight: tuple[Precision | None, ...]
    output: tuple[Precision, ...]


_WIDE: tuple[Precision, ...] = ("bf16", "fp32")
_PRODUCT = _Allowed(input=("fp8_e4m3", *_WIDE), weight=("fp8_e4m3", *_WIDE), output=_WIDE)
_POINTWISE = _Allowed(input=_WIDE, weight=(None,), output=_WIDE)

# The layers of a plan: every node of one of these types has exactly one entry.
LAYER_OPS: Mapping[str, _Allowed] = MappingProxyType(
    {
        "R1Embedding": _Allowed(input=("int64",), weight=_WIDE, output=_WIDE),
        "R1RMSNorm": _Allowed(input=_WIDE, weight=("fp32",), output=_WIDE),
        "R1Linear": _PRODUCT,
        "R1LinearBias": _PRODUCT,
        "R1LambdaGate": _Allowed(input=_WIDE, weight=("fp32",), output=("fp32",)),
        "R1SwiGLU": _POINTWISE,
        "Add": _POINTWISE,
        "R1DynamicRoPE": _POINTWISE,
        "R1HLAAttention": _POINTWISE,
        "R1DynamicMoE": _PRODUCT,
    }
)


def _layer_problems(layer: LayerPrecision) -> Iterator[str]:
    allowed = LAYER_OPS.get(layer.op)
    if allowed is None:
        yield f"no layer has the type '{layer.op}' (known: {', '.join(LAYER_OPS)})"
        return
    for name in ("input", "weight", "output"):
        if getattr(layer, name) not in getattr(allowed, name):
            yield f"{name} is {getattr(layer, name)}, but can be {_choices(getattr(allowed, name))}"
    yield from _product_problems(layer)
    yield from _operator_problems(layer)
    for name in ("input_scale", "weight_scale", "mid_scale", "down_scale"):
        yield from _scale_problems(name, getattr(layer, name))
    if isinstance(layer.weight_scale, tuple) != (layer.weight_axis is not None):
        yield "weight_axis belongs to a list of weight scales, and to nothing else"
    if layer.weight_axis not in (None, 0):
        yield f"weight_axis is {layer.weight_axis}, but weights are scaled along their rows (axis 0)"
    if not layer.reason.strip():
        yield "reason is empty"


def _operator_problems(layer: LayerPrecision) -> Iterator[str]:
    """The three operators have one type for all activations (`r1trt/ops/`)."""
    if layer.op in ("R1DynamicRoPE", "R1HLAAttention", "R1DynamicMoE") and not layer.quantizes_input:
        others = {"input": layer.input, "weight": layer.weight}
        for name, kind in others.items():
            if kind is not None and kind != layer.output:
                yield f"{name} is {kind} and output {layer.output}; the operator has one type for both"


def _product_problems(layer: LayerPrecision) -> Iterator[str]:
    if layer.quantizes_input and not layer.quantizes_weight:
        yield f"input is fp8_e4m3 and weight {layer.weight}; an FP8 product has FP8 weights too"
    is_moe = layer.op == "R1DynamicMoE"
    if is_moe and layer.quantizes_weight and not layer.quantizes_input:
        yield "FP8 experts need an FP8 input; the operator has no weight-only form"
    if layer.shared_weight is not None and not (is_moe and layer.shared_weight == layer.weight):
        yield f"shared_weight is {layer.shared_weight}; only R1DynamicMoE has it, in the type of its experts"
    for name in ("mid_scale", "down_scale"):
        if getattr(layer, name) is not None and not is_moe:
            yield f"{name} belongs to R1DynamicMoE"
    if layer.input_scale is not None and not layer.quantizes_input:
        yield "input_scale belongs to an fp8_e4m3 input"
    if layer.weight_scale is not None and not layer.quantizes_weight:
        yield "weight_scale belongs to an fp8_e4m3 weight"


def _scale_problems(name: str, scale: Scale | None) -> Iterator[str]:
    values = () if scale is None else scale if isinstance(scale, tuple) else (scale,)
    bad = [(index, value) for index, value in enumerate(values) if not math.isfinite(value) or value <= 0]
    if bad:
        index, value = bad[0]
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        yield f"{name} has {value} at {index}{more}; scales are finite and above 0"


def _choices(names: tuple[object, ...]) -> str:
    return " or ".join("nothing" if name is None else str(name) for name in names)
