"""What figures were taken on, and how large files are."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from r1trt.machine import processor_name


def machine() -> dict[str, Any]:
    """Describes what the numbers were taken on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def tree_bytes(directory: Path) -> int:
    """Adds up the sizes of all regular files."""
    return sum(p.stat().st_size for p in directory.rglob("*") if p.is_file() and not p.is_symlink())
