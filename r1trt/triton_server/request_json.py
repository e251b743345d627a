"""What a request's body holds: JSON that the server's own parser survives, and fields of their types."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from r1trt.serving.fields import REQUEST_FIELDS, Field
from r1trt.triton_server.door_errors import RefusedError

_MOST_DIGITS = 400
"""Of a number: as many as the largest of double precision has."""

_INTEGERS = {"INT32": (-(2**31), 2**31 - 1), "INT64": (-(2**63), 2**63 - 1), "UINT64": (0, 2**64 - 1)}
_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "STRING": ((str,), "a text"),
    "BOOL": ((bool,), "true or false"),
    "FP32": ((int, float), "a number"),
    **dict.fromkeys(_INTEGERS, ((int,), "an integer")),
}


def object_from_body(text: bytes, depth: int) -> dict[str, Any]:
    """Parses a body.

    Args:
        text: UTF-8 text.
        depth: Most levels of lists and objects: the server's own parser overflows its stack.

    Raises:
        RefusedError: It is not JSON, no object, or nested too deep.
    """
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_integer)
    except RecursionError as error:
        raise _too_deep(depth) from error
    except ValueError as error:
        raise RefusedError(400, f"The body is not JSON: {error}") from error
    if _depth_exceeds(value, depth):
        raise _too_deep(depth)
    if not isinstance(value, dict):
        raise RefusedError(400, "The body is JSON, but no object: {...} is expected.")
    return value


def require_fields(request: Mapping[str, Any], *, streams: bool) -> None:
    """Checks the fields of a request for text.

    The server itself takes an integer's lowest bits, and calls a text in the place of a number its own error.

    Args:
        request: What the body holds.
        streams: Whether the path that is asked sends text as it is generated.

    Raises:
        RefusedError: Names the field.
    """
    if not streams and any(fields.get("stream") is True for fields in (request, _parameters(request))):
        # The server's own answer is 200, with an error in it.
        raise RefusedError(
            400, "stream is true, and generate gives one answer: ask generate_stream, or leave stream out."
        )
    for fields in (request, _parameters(request)):
        for field in REQUEST_FIELDS:
            given = fields.get(field.name, [])
            for value in given if isinstance(given, list) else [given]:
                _require_kind(field, value)


def _parameters(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields that clients of other servers put there; the server takes them as if they stood beside it."""
    parameters = request.get("parameters")
    return parameters if isinstance(parameters, dict) else {}


def _require_kind(field: Field, value: object) -> None:
    types, expected = _KINDS[field.dtype]
    if not isinstance(value, types) or (isinstance(value, bool) and field.dtype != "BOOL"):
        found = json.dumps(value)[:60]
        raise RefusedError(400, f"{field.name} is of the wrong type: {found}, where {expected} is expected.")
    least, most = _INTEGERS.get(field.dtype, (-math.inf, math.inf))
    if isinstance(value, int) and not least <= value <= most:
        raise RefusedError(400, f"{field.name} is out of range: {least} to {most} are taken.")


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


def _depth_exceeds(value: object, limit: int) -> bool:
    level: list[object] = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _too_deep(limit: int) -> RefusedError:
    return RefusedError(400, f"The body's lists and objects are nested more than {limit} deep.")
