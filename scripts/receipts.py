"""What a benchmark leaves: its figures as JSON, and a page that tells them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_receipt(directory: Path, name: str, document: Mapping[str, Any], page: str) -> Path:
    """Writes `NAME.json` and `NAME.md` into a folder, which is made; returns the page's path."""
    directory.mkdir(parents=True, exist_ok=True)
    figures = directory / f"{name}.json"
    figures.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    figures.with_suffix(".md").write_text(page, encoding="utf-8")
    return figures.with_suffix(".md")
