"""A request's body: JSON that parsers behind this one survive, too."""

from __future__ import annotations

import json
import math
from typing import Any

from r1trt.door.errors import RefusedError
from r1trt.strict_json import depth_exceeds

_MOST_DIGITS = 308
"""Of an integer: Triton takes those that it cannot hold for numbers of double precision."""


def object_from_body(text: bytes, depth: int) -> dict[str, Any]:
    """Parses a body.

    Args:
        text: UTF-8 text.
        depth: Most levels of lists and objects: the server's own parser overflows its stack.

    Raises:
        RefusedError: It is not JSON, no object, or nested too deep.
    """
    try:
        value = json.loads(
            text.decode("utf-8"),
            parse_constant=_no_number,
            parse_float=_finite,
            parse_int=_integer,
            object_pairs_hook=_unique,
        )
    except RecursionError as error:
        raise _too_deep(depth) from error
    except ValueError as error:
        raise RefusedError(400, f"The body is not JSON: {error}") from error
    if depth_exceeds(value, depth):
        raise _too_deep(depth)
    if not isinstance(value, dict):
        raise RefusedError(400, "The body is JSON, but no object: {...} is expected.")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RefusedError(400, "The body holds half of a surrogate pair, which is not Unicode.") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:_MOST_DIGITS]} is larger than any number that is taken")
    return value


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _too_deep(limit: int) -> RefusedError:
    return RefusedError(400, f"The body's lists and objects are nested more than {limit} deep.")
