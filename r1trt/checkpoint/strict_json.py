"""JSON of untrusted files: size-bounded, without duplicate keys, with one kind of error."""

from __future__ import annotations

import json
import math
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

from r1trt.errors import CheckpointError

MAX_JSON_BYTES = 100_000_000
_FIX = "take the file of the same revision again; what stands in it is not what its publisher wrote"


def open_regular(path: Path) -> BufferedReader:
    """Opens a file for reading, following links; refuses what is not a regular file.

    Raises:
        CheckpointError: The file is absent, unreadable, or a directory, device or pipe.
    """
    try:
        # NOTES: without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError("file cannot be read", where=path, found=reason) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError("not a regular file", where=path, expected="a file")
    return os.fdopen(descriptor, "rb")


def json_object_from_bytes(data: bytes, where: object) -> dict[str, Any]:
    """Parses a JSON object.

    Args:
        data: UTF-8 text.
        where: What the text comes from, for messages.

    Raises:
        CheckpointError: Not UTF-8, not JSON, nested too deeply, with a key given twice, or not an object.
    """

    def refuse(problem: object) -> NoReturn:
        raise CheckpointError(
            "invalid JSON", where=where, found=problem, expected="a JSON object in UTF-8", fix=_FIX
        )

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                refuse(f"key {key[:200]!r} twice")
            result[key] = value
        return result

    def no_constant(name: str) -> NoReturn:
        refuse(f"{name}, which JSON does not have")

    def finite(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else refuse(f"{text[:200]}, beyond every number format")

    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant, parse_float=finite
        )
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise CheckpointError(
            "invalid JSON", where=where, found=reason, expected="a JSON object in UTF-8", fix=_FIX
        ) from error
    if not isinstance(value, dict):
        refuse(f"a {type(value).__name__}")
    return value


def json_object_from_file(path: Path) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Raises:
        CheckpointError: The file is unreadable or too large, or its text is refused.
    """
    with open_regular(path) as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise CheckpointError(
            "JSON file is too large", where=path, expected=f"at most {MAX_JSON_BYTES} bytes"
        )
    return json_object_from_bytes(data, path)
