"""JSON of untrusted files: bounded in size and values, without duplicate keys, with one kind of error."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from r1trt.errors import CheckpointError, R1TrtError
from r1trt.files import CONFIG_BYTES, bytes_of_file

# A value takes up to 100 bytes of memory. DeepSeek-R1's 91,991 tensors in one header would be 900,000.
MAX_VALUES = 2_000_000
_FIX = "take the file of the same revision again; what stands in it is not what its publisher wrote"


def json_object_from_bytes(
    data: bytes, where: object, *, error: type[R1TrtError] = CheckpointError, max_values: int = MAX_VALUES
) -> dict[str, Any]:
    """Parses a JSON object.

    Args:
        data: UTF-8 text.
        where: What the text comes from, for messages.
        error: What is raised.
        max_values: Values that it may have at most; refused before they are made.

    Raises:
        R1TrtError: Not UTF-8, not JSON, nested too deeply, with too many values, with a key given twice, with
            text that is not Unicode, or not an object.
    """
    try:
        most = sum(map(data.count, (b",", b"[", b"{")))
        if most > max_values:
            raise ValueError(f"up to {most} values; at most {max_values} are read")
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
        if b"\\u" in data:
            _require_unicode(value)
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__}")
    except (ValueError, RecursionError) as cause:
        reason = "nested too deeply" if isinstance(cause, RecursionError) else cause
        raise error(
            "invalid JSON", where=where, found=reason, expected="a JSON object in UTF-8", fix=_FIX
        ) from cause
    return value


def depth_exceeds(value: object, limit: int) -> bool:
    """Whether lists and objects are nested more than `limit` deep."""
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


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {twice[:200]!r} twice")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which JSON does not have")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:200]}, beyond every number format")
    return value


def _require_unicode(value: object) -> None:
    """Raises ValueError for half of a surrogate pair, which an escape may spell and UTF-8 cannot hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair, which is not Unicode text") from error


def json_object_from_file(
    path: Path, *, limit: int = CONFIG_BYTES, error: type[R1TrtError] = CheckpointError
) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
        path: The file.
        limit: Bytes that it may have at most.
        error: What is raised.

    Raises:
        R1TrtError: The file is unreadable or too large, or its text is refused.
    """
    return json_object_from_bytes(bytes_of_file(path, limit=limit, error=error), path, error=error)
