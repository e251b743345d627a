"""What differs between two plans, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from r1trt.ops.layer_precision import LayerPrecision
from r1trt.precision.plan import PrecisionPlan

_TYPES = ("input", "weight", "shared_weight", "output", "implementation", "own_scales", "weight_axis")
_SCALES = ("input_scale", "weight_scale", "mid_scale", "down_scale")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One layer that differs.

    Attributes:
        layer: Its name.
        field: What differs.
        first: In the first plan; None where it has no such layer, or nothing there.
        second: In the second.
    """

    layer: str
    field: str
    first: str | None
    second: str | None


def differences(first: PrecisionPlan, second: PrecisionPlan) -> list[Difference]:
    """What differs in types and scales, in the order of the first plan; reasons do not count."""
    names = dict.fromkeys([*first.layers, *second.layers])
    return [
        found for name in names for found in _of_layer(name, first.layers.get(name), second.layers.get(name))
    ]


def _of_layer(name: str, first: LayerPrecision | None, second: LayerPrecision | None) -> Iterator[Difference]:
    if first is None or second is None:
        ops = [None if layer is None else layer.op for layer in (first, second)]
        yield Difference(layer=name, field="op", first=ops[0], second=ops[1])
        return
    for item in fields(LayerPrecision):
        ours, theirs = getattr(first, item.name), getattr(second, item.name)
        if ours == theirs:
            continue
        if item.name in _TYPES:
            yield Difference(layer=name, field=item.name, first=_text(ours), second=_text(theirs))
        elif item.name in _SCALES:
            yield Difference(layer=name, field=item.name, first=_scale(ours), second=_scale(theirs))


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _scale(value: float | tuple[float, ...] | None) -> str | None:
    if value is None:
        return None
    return f"{len(value)} scales up to {max(value):.4g}" if isinstance(value, tuple) else f"{value:.4g}"
