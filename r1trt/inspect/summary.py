"""What `r1trt inspect` shows: single facts, and tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Layers of the same name in every decoder layer are one row of a table.
LAYER = re.compile(r"model\.layers\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under a header.

    Attributes:
        title: What the rows are.
        header: Column names.
        rows: One sequence of cells a row.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What `r1trt inspect` shows.

    Attributes:
        kind: What was found: an artifact's kind, "checkpoint", "onnx", "safetensors" or "precision plan".
        path: Where.
        facts: Single values by name; sizes are bytes under names that end in "bytes".
        tables: What comes in rows.
    """

    kind: str
    path: Path
    facts: Mapping[str, Any]
    tables: Sequence[Table] = field(default_factory=tuple)
