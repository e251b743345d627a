"""`PrecisionPlan`: which types and scales each layer of an exported graph runs with, and why.

A plan belongs to one model and one architecture. Its layers are keyed by ONNX node name. It does nothing
by itself: `r1trt.passes` writes it into the graph, and what the builder made of it is read back and compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import get_args

from r1trt.arch import BuildPrecision
from r1trt.errors import PlanError
from r1trt.ops.layer_precision import FP8, LayerPrecision, require_usable
from r1trt.ops.registry import operator_of_layer

PLAN_KINDS: tuple[BuildPrecision, ...] = get_args(BuildPrecision)
SCHEMA = 1


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
    precision: BuildPrecision
    builder: Mapping[str, str] = field(default_factory=dict)
    thresholds: Thresholds
    calibration: Mapping[str, str | int | float] = field(default_factory=dict)
    layers: Mapping[str, LayerPrecision]

    def __post_init__(self) -> None:
        if self.precision not in PLAN_KINDS:
            raise PlanError("Unknown precision.", found=self.precision, expected=" | ".join(PLAN_KINDS))
        for name, layer in self.layers.items():
            problems = list(operator_of_layer(layer).problems(layer))
            require_usable(f"{layer.op} ('{name}')", problems)

    @property
    def missing_scales(self) -> tuple[str, ...]:
        """`<layer>.<scale>` for every scale that calibration has still to find."""
        return tuple(
            f"{key}.{name}"
            for key, layer in self.layers.items()
            for name in operator_of_layer(layer).missing_scales(layer)
        )

    @property
    def uses_fp8(self) -> bool:
        """Whether any layer computes with or stores FP8."""
        return any(FP8 in (layer.input, layer.weight) for layer in self.layers.values())
