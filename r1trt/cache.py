"""The one directory where results of long work are kept between commands."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "R1TRT_CACHE"


def cache_directory() -> Path:
    """$R1TRT_CACHE, else r1trt/ in the user's cache directory ($XDG_CACHE_HOME, else ~/.cache)."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "r1trt"
