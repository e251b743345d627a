"""Folders that Triton's Python backend makes as it starts, and leaves where it is killed.

Their place, /tmp/python_env_XXXXXX, is fixed in the backend, and the names say nothing of whose they are.
"""

from __future__ import annotations

import os
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

from r1trt.lifetime.children import name_of

_PARENT, _PATTERN = Path("/tmp"), "python_env_*"
_SERVER = "tritonserver"


def backend_folders() -> frozenset[Path]:
    """Those that there are."""
    return frozenset(_PARENT.glob(_PATTERN))


def remove_backend_folders(before: Set[Path], server: int) -> None:
    """Removes this user's empty ones that were not there before a server started.

    Where another server of the user's runs, all are left: one may be its.

    Args:
        before: Those that were there.
        server: The server's process id; it may have ended.
    """
    if _another_runs(server):
        return
    for path in backend_folders() - before:
        with suppress(OSError):
            if path.lstat().st_uid == os.getuid():
                path.rmdir()  # only where it is empty


def _another_runs(server: int) -> bool:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            pid = int(process.name)
            if pid != server and process.stat().st_uid == os.getuid() and name_of(pid) == _SERVER:
                return True
    return False
