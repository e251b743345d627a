"""What a request's body holds: JSON that the server's own parser survives, and fields of their types."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from r1trt.serving.fields import PROMPTS, REQUEST_FIELDS, Field
from r1trt.strict_json import depth_exceeds
from r1trt.triton_server.door_errors import RefusedError

_MOST_DIGITS = 308
"""Of an integer: the server takes those that it cannot hold for numbers of double precision."""

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


def require_fields(request: Mapping[str, Any], *, streams: bool) -> None:
    """Checks the fields of a request for text.

    The server itself takes an integer's lowest bits, and calls a text in the place of a number its own error.

    Args:
        request: What the body holds.
        streams: Whether the path that is asked sends text as it is generated.

    Raises:
        RefusedError: Names the field.
    """
    _require_own_values(request)
    if not any(name in fields for fields in (request, _parameters(request)) for name in PROMPTS):
        raise RefusedError(400, f"There is no prompt: give {' or '.join(PROMPTS)}.")
    if not streams and any(_streams(fields) for fields in (request, _parameters(request))):
        # The server's own answer is 200, with an error in it.
        raise RefusedError(
            400, "stream is true, and generate gives one answer: ask generate_stream, or leave stream out."
        )
    for fields in (request, _parameters(request)):
        for field in REQUEST_FIELDS:
            if field.name in fields:
                _require_value(field, fields[field.name])


def _parameters(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields that clients of other servers put there; the server takes them as if they stood beside it."""
    parameters = request.get("parameters")
    return parameters if isinstance(parameters, dict) else {}


def _streams(fields: Mapping[str, Any]) -> bool:
    value = fields.get("stream")
    return value is True or (isinstance(value, list) and len(value) == 1 and value[0] is True)


def _require_own_values(request: Mapping[str, Any]) -> None:
    """Refuses what the server calls an error of its own, or takes for something else."""
    if not isinstance(request.get("id", ""), str):
        raise RefusedError(400, "id is of the wrong type: a text is expected.")
    if not isinstance(request.get("parameters", {}), dict):
        raise RefusedError(400, "parameters is of the wrong type: an object is expected.")
    known = {field.name for field in REQUEST_FIELDS} | {"id", "parameters"}
    for name, value in request.items():
        if name not in known and (isinstance(value, list | dict) or value is None or "\0" in name):
            fields = ", ".join(field.name for field in REQUEST_FIELDS)
            raise RefusedError(400, f"The model knows no field {json.dumps(name[:60])}; it knows {fields}.")


def _require_value(field: Field, given: object) -> None:
    values = given if isinstance(given, list) else [given]
    if field.name == "messages" and not isinstance(given, str):
        raise RefusedError(400, "messages is of the wrong type: it is a text that holds the list as JSON.")
    if not field.is_list and len(values) != 1:
        raise RefusedError(400, f"{field.name} takes one value, and {len(values)} are given.")
    for value in values:
        _require_kind(field, value)


def _require_kind(field: Field, value: object) -> None:
    types, expected = _KINDS[field.dtype]
    if not isinstance(value, types) or (isinstance(value, bool) and field.dtype != "BOOL"):
        found = json.dumps(value)[:60]
        raise RefusedError(400, f"{field.name} is of the wrong type: {found}, where {expected} is expected.")
    least, most = _INTEGERS.get(field.dtype, (-math.inf, math.inf))
    if isinstance(value, int) and not least <= value <= most:
        raise RefusedError(400, f"{field.name} is out of range: {least} to {most} are taken.")


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
