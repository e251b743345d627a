"""How each field of a layer is read from a plan's file; a ValueError says what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from r1trt.ops.layer_precision import CACHE_TYPES, IMPLEMENTATIONS, PRECISIONS
from r1trt.ops.registry import LAYER_OPERATORS


def is_number(value: object) -> bool:
    """Whether YAML gave a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def float_from_yaml(value: object) -> float:
    """A YAML number as a float; integers beyond its range are infinite."""
    assert isinstance(value, int | float)
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _read_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is {value!r}, expected text")
    return value


def _read_op(value: object) -> str:
    if not isinstance(value, str) or value not in LAYER_OPERATORS:
        raise ValueError(f"is {value!r}, can be {', '.join(LAYER_OPERATORS)}")
    return str(value)


def _read_precision(value: object) -> str:
    if not isinstance(value, str) or value not in PRECISIONS:
        raise ValueError(f"is {value!r}, can be {', '.join(PRECISIONS)}")
    return str(value)


def _read_cache(value: object) -> str:
    if not isinstance(value, str) or value not in CACHE_TYPES:
        raise ValueError(f"is {value!r}, can be {', '.join(CACHE_TYPES)}")
    return str(value)


def _read_implementation(value: object) -> str:
    if not isinstance(value, str) or value not in IMPLEMENTATIONS:
        raise ValueError(f"is {value!r}, can be {', '.join(IMPLEMENTATIONS)}")
    return str(value)


def _read_axis(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"is {value!r}, expected an integer")
    return value


def _read_scale(value: object) -> float:
    if not is_number(value):
        raise ValueError(f"is {value!r}, expected one FP32 number")
    scale = float_from_yaml(value)
    with np.errstate(over="ignore", under="ignore"):
        stored = np.float32(scale)
    if not np.isfinite(stored) or stored <= 0:
        raise ValueError(f"is {value!r}; scales are finite FP32 numbers above 0")
    return scale


def _read_scales(value: object) -> float | tuple[float, ...]:
    if not isinstance(value, list):
        return _read_scale(value)
    if not value:
        raise ValueError("is an empty list")
    if any(isinstance(item, list) for item in value):
        # TensorRT-RTX 1.7 builds FP8 x FP8 products with blocked weight scales, and computes them wrongly.
        raise ValueError("is blocked (a list of lists); use one scale, or one a row of the weight")
    return tuple(_read_scale(item) for item in value)


def _read_switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"is {value!r}, can be true or false")
    return value


def _read_share(value: object) -> float:
    if not is_number(value) or not 0 <= (share := float_from_yaml(value)) < math.inf:
        raise ValueError(f"is {value!r}, expected a number from 0 on")
    return share


FIELD_READERS: Mapping[str, Callable[[object], Any]] = {
    "op": _read_op,
    "input": _read_precision,
    "weight": _read_precision,
    "output": _read_precision,
    "input_scale": _read_scale,
    "weight_scale": _read_scales,
    "weight_axis": _read_axis,
    "block_size": _read_axis,
    "mid_scale": _read_scale,
    "down_scale": _read_scales,
    "shared_weight": _read_precision,
    "cache": _read_cache,
    "own_scales": _read_switch,
    "weight_error": _read_share,
    "internals": _read_text,
    "implementation": _read_implementation,
    "reason": _read_text,
}
