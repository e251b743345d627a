"""Shared memory that a server leaves behind when it is killed."""

from __future__ import annotations

from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


def remove_shared_memory(prefix: str) -> list[str]:
    """Removes shared memory whose name starts with `prefix`; returns the names."""
    names = [path.name for path in SHARED_MEMORY.glob(f"{prefix}*")]
    for name in names:
        (SHARED_MEMORY / name).unlink(missing_ok=True)
    return names
