"""What a request's body holds: fields of their types."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from r1trt.door.errors import RefusedError
from r1trt.serving.fields import PROMPTS, REQUEST_FIELDS, Field

_JSON = ("messages", "tools")
"""Texts in which a list stands."""

_INTEGERS = {"INT32": (-(2**31), 2**31 - 1), "INT64": (-(2**63), 2**63 - 1), "UINT64": (0, 2**64 - 1)}
_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "STRING": ((str,), "a text"),
    "BOOL": ((bool,), "true or false"),
    "FP32": ((int, float), "a number"),
    **dict.fromkeys(_INTEGERS, ((int,), "an integer")),
}


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
    if field.name in _JSON and not isinstance(given, str):
        raise RefusedError(
            400, f"{field.name} is of the wrong type: it is a text that holds the list as JSON."
        )
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
