"""Names of weight files, and lists of findings in messages."""

from __future__ import annotations

from collections.abc import Iterable

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
LISTED = 20


def bullet_list(title: str, lines: Iterable[str]) -> list[str]:
    """Formats findings for a message: a title with their count, then at most `LISTED` of them."""
    found = list(lines)
    if not found:
        return []
    rest = [f"    ... and {len(found) - LISTED} more"] if len(found) > LISTED else []
    return [f"  {title} ({len(found)}):", *(f"    {line}" for line in found[:LISTED]), *rest]
