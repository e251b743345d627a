"""Processes that end when this one does, however it does.

The kernel's own signal at a parent's death is sent when the *thread* ends that started a child, and does not
reach grandchildren: nvcc's compilers, or the models of a Triton server. So children are put into a process
group beside a guard, a shell that waits for the end of a pipe which this process alone holds open.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType

from r1trt.lifetime.ending import at_ending

# The guard's parent ends at once, so that the guard is nobody's child, and it alone is left of the group.
_GUARD = "trap '' TERM INT HUP; exec 3<&0 </dev/null; (read _ <&3; kill -KILL 0) >/dev/null & echo $!"
_GONE_S, _POLL_S = 1.0, 0.005


class ChildGroup:
    """A process group that is killed at the end of a block, and at this process's end.

    Pass `process_group=group.id` to `subprocess`.
    """

    def __init__(self) -> None:
        reading, self._open = os.pipe()
        try:
            guard = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD],
                stdin=reading,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
        finally:
            os.close(reading)
        said, _ = guard.communicate()
        self.id, self._guard = guard.pid, int(said)
        self._registered = at_ending(self.kill)
        self._registered.__enter__()

    def kill(self) -> None:
        """Kills every process of the group but the guard.

        While this process ends its other threads go on, and may start one more child: that is the guard's,
        once all of them are gone.
        """
        deadline = time.monotonic() + _GONE_S
        while (members := _members(self.id) - {self._guard}) and time.monotonic() < deadline:
            for pid in members:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Kills the group, the guard as well; it cannot be used any more."""
        self.kill()
        os.close(self._open)
        self._registered.__exit__(None, None, None)

    def __enter__(self) -> ChildGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@cache
def child_group() -> int:
    """The group of this process's ordinary children, for `process_group` of `subprocess`."""
    return _process_wide().id


@cache
def _process_wide() -> ChildGroup:
    return ChildGroup()


def _members(group: int) -> set[int]:
    """The running processes of a process group."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {pid for pid in pids if _group_of(pid) == group and is_alive(pid)}


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def children_of(pid: int) -> set[int]:
    """Processes that a process has started, and that have not been waited for."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found.update(map(int, task.read_text().split()))
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def arguments_of(pid: int) -> list[str]:
    """A process's command line; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def name_of(pid: int) -> str:
    """The kernel's name of a process; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""
