"""The type of the KV cache, chosen beside what the rules or a plan's file say."""

from __future__ import annotations

from dataclasses import replace

from r1trt.errors import PlanError
from r1trt.ops.layer_precision import CacheType, LayerPrecision
from r1trt.ops.registry import operator_of_layer
from r1trt.precision.plan import PrecisionPlan
from r1trt.text import listing


def with_cache_type(plan: PrecisionPlan, cache: CacheType) -> PrecisionPlan:
    """Give all caches of a plan one type.

    Raises:
        PlanError: Layers with caches compute in other types than FP32; lists them.
    """
    held = {name: layer for name, layer in plan.layers.items() if operator_of_layer(layer).caches}
    narrow = [f"'{name}' has input {layer.input}" for name, layer in held.items() if layer.input != "fp32"]
    if narrow:
        raise PlanError(
            f"A KV cache in {cache} is read by attention in fp32 alone.",
            found=listing(narrow),
            fix="build with --fp32, --int8 or --int4, or leave --kv-cache out",
        )
    return replace(
        plan, layers={**plan.layers, **{name: _held_in(layer, cache) for name, layer in held.items()}}
    )


def _held_in(layer: LayerPrecision, cache: CacheType) -> LayerPrecision:
    chosen = None if cache == layer.input else cache
    if chosen == layer.cache:
        return layer
    return replace(
        layer, cache=chosen, reason=f"attention in {layer.input}; KV cache in {cache}, as asked for"
    )
