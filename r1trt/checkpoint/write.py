"""Writes .safetensors files: a header, and bytes that come in pieces; no tensor is ever whole in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from r1trt.checkpoint.safetensors_header import LENGTH_BYTES

_ALIGNMENT = 8


@dataclass(frozen=True, kw_only=True)
class HeaderEntry:
    """A tensor as a header names it.

    Attributes:
        name: The tensor's name.
        dtype: As safetensors names it.
        shape: Its dimensions.
        length: Its bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    length: int


def header_bytes(entries: Sequence[HeaderEntry], *, form: str) -> bytes:
    """A file's first bytes, behind which the tensors' follow, one after the other without a gap.

    Args:
        entries: The tensors, in the order of their bytes.
        form: What "format" is in the metadata; `transformers` wants "pt".
    """
    table: dict[str, Any] = {"__metadata__": {"format": form}}
    for entry, start in zip(entries, _starts(entries), strict=True):
        table[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [start, start + entry.length],
        }
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _starts(entries: Sequence[HeaderEntry]) -> Iterator[int]:
    start = 0
    for entry in entries:
        yield start
        start += entry.length
