"""Limits of a configuration's values, and the checks that refuse what lies outside.

The limits lie far above any model of these families: a size beyond them is a damaged or hostile config, and
would otherwise end in a table of billions of tensor names.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import cast

from r1trt.errors import ConfigError

MAX_LAYERS = 1024
MAX_EXPERTS = 4096
MAX_EXPERTS_OF_ALL_LAYERS = 1 << 18
MAX_WIDTH = 1 << 20
MAX_VOCABULARY = 1 << 24
MAX_POSITIONS = 1 << 30


def require(condition: bool, message: str, *, found: object, expected: object) -> None:
    """Raises ConfigError with this message unless `condition` holds."""
    if not condition:
        raise ConfigError(message, found=found, expected=expected)


def require_size(name: str, value: object, limit: int, *, minimum: int = 1) -> None:
    """Raises ConfigError unless `value` is an integer (not a bool) from `minimum` to `limit`."""
    is_int = isinstance(value, int) and not isinstance(value, bool)
    require(
        is_int and minimum <= cast(int, value) <= limit,
        f"{name} is not a usable size",
        found=repr(value),
        expected=f"an integer from {minimum} to {limit}",
    )


def require_number(name: str, value: object, *, minimum: float, exclusive: bool = False) -> None:
    """Raises ConfigError unless `value` is a finite number >= `minimum` (> with `exclusive`)."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # NOTES: JSON knows integers that no double holds.
    is_number = is_number and abs(cast(float, value)) <= sys.float_info.max
    number = float(cast(float, value)) if is_number else math.nan
    require(
        math.isfinite(number) and (number > minimum if exclusive else number >= minimum),
        f"{name} is not a usable number",
        found=repr(value),
        expected=f"a finite number {'>' if exclusive else '>='} {minimum:g}",
    )


def require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raises ConfigError unless `value` is one of the strings `choices`."""
    require(
        isinstance(value, str) and value in choices,
        f"{name} is not one that is implemented",
        found=repr(value),
        expected=" | ".join(choices),
    )
