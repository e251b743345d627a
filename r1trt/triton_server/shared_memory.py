"""Shared memory that a server leaves behind when it is killed."""

from __future__ import annotations

import os
from pathlib import Path

from r1trt.lifetime.identity import ProcessIdentity
from r1trt.triton_server.config import PREFIX

SHARED_MEMORY = Path("/dev/shm")


def remove_shared_memory(prefix: str) -> None:
    """Removes shared memory whose name starts with `prefix`."""
    for path in SHARED_MEMORY.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)


def remove_left_behind(http_port: int) -> None:
    """Removes shared memory of this user's servers that run no more.

    Args:
        http_port: A port that is free, so that nobody's memory with its number is in use.
    """
    for path in SHARED_MEMORY.glob(f"{PREFIX}{os.getuid()}_*_*_*"):
        port, identity = path.name.split("_")[2:4]
        owner = ProcessIdentity.from_text(identity)
        if port == str(http_port) or (owner is not None and owner.is_dead):
            path.unlink(missing_ok=True)
