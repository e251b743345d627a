"""A graph's file before it is parsed: how many parts it has, of which one of two bytes takes a kilobyte.

Only the protobuf wire format is read, and of ONNX's messages only which field is a message again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from r1trt.errors import ExportError, R1TrtError
from r1trt.files import GRAPH_BYTES, bytes_of_file

# DeepSeek-R1: a million fields, without those of entries, and 90,000 tensors, which weigh 1.5 million.
MAX_FIELDS, MAX_WEIGHT = 4_000_000, 6_000_000
MAX_DEPTH = 40
_FIX = "make it again, or copy it again from where it was made"

# Field numbers of messages in messages, from onnx.proto; "leaf" has none that matter.
_MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 8: "leaf", 14: "leaf", 20: "training", 25: "function", 26: "leaf"},
    "training": {1: "graph", 2: "graph", 3: "leaf", 4: "leaf"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value"}
    | {14: "leaf", 15: "sparse", 16: "leaf"},
    "function": {7: "node", 9: "leaf", 11: "attribute", 12: "value", 14: "leaf"},
    "node": {5: "attribute", 9: "leaf", 10: "leaf"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"}
    | {14: "type", 15: "type", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {3: "leaf", 13: "leaf", 16: "leaf"},
    "value": {2: "type", 4: "leaf"},
    "type": {1: "typed", 4: "typed", 5: "typed", 8: "typed", 9: "typed"},
    "typed": {1: "type", 2: "shape"},
    "shape": {1: "leaf"},
    "leaf": {},
}  # fmt: skip
# Packed integers, a byte each in the file and eight in memory.
_PACKED = {"tensor": (1, 5, 7, 11), "attribute": (8,)}
# What the messages take of memory and time in a graph that is read, in about 60 bytes and microseconds.
_WEIGHTS = {"leaf": 1, "node": 32, "tensor": 16, "attribute": 8, "value": 8}
_LENGTH, _VARINT = 2, 0
_FIXED = {1: 8, 5: 4}


class _DamagedError(ValueError):
    """The bytes are no protobuf message, or one of too many parts."""


def graph_bytes(path: Path, error: type[R1TrtError] = ExportError) -> bytes:
    """Reads the file of a graph that a parser may be given.

    Args:
        path: An ONNX file.
        error: What is raised.

    Raises:
        R1TrtError: The file is unreadable, too large, cut off, or has too many parts.
    """
    data = bytes_of_file(path, limit=GRAPH_BYTES, error=error, fix=_FIX)
    try:
        _count_parts(data)
    except _DamagedError as cause:
        raise error("This is not a readable ONNX graph.", where=path, found=cause, fix=_FIX) from cause
    return data


def _count_parts(data: bytes) -> tuple[int, int]:
    """Fields and weight of a ModelProto; raises _DamagedError for too many, or bytes that end early."""
    fields = weight = 0
    waiting = [("model", 0, len(data), 0)]
    while waiting:
        kind, position, end, depth = waiting.pop()
        messages, packed = _MESSAGES[kind], _PACKED.get(kind, ())
        while position < end:
            tag, position = _varint(data, position, end)
            number, wire = tag >> 3, tag & 7
            fields += 1
            if wire == _LENGTH:
                length, position = _varint(data, position, end)
                if number in messages:
                    inner = messages[number]
                    weight += _WEIGHTS.get(inner, 4)
                    if inner != "leaf":
                        waiting.append((inner, position, position + length, depth + 1))
                elif number in packed:
                    fields += length // 4
                position += length
            elif wire == _VARINT:
                _, position = _varint(data, position, end)
            elif wire in _FIXED:
                position += _FIXED[wire]
            else:
                raise _DamagedError(f"a field of kind {wire} at byte {position}")
            if position > end:
                raise _DamagedError("it is cut off inside of a field")
            if fields > MAX_FIELDS or weight > MAX_WEIGHT or depth > MAX_DEPTH:
                raise _DamagedError(f"it has more parts than any model's, or {MAX_DEPTH} levels")
    return fields, weight


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _DamagedError(f"a number without an end at byte {position}")
