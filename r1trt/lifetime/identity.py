"""A name for one process of this machine that no later process has."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_STARTED_FIELD = 19
"""Of /proc/PID/stat, counted behind the command's name (proc(5): field 22)."""


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, as file names tell of it.

    Attributes:
        namespace: Inode of its PID namespace: containers that share a folder have each their own numbers.
        pid: Its number.
        started: When it started, in clock ticks since the machine did: numbers are given again.
    """

    namespace: int
    pid: int
    started: int

    @classmethod
    def own(cls) -> ProcessIdentity:
        """This process."""
        return cls(_namespace(), os.getpid(), _started(os.getpid()) or 0)

    @classmethod
    def from_text(cls, text: str) -> ProcessIdentity | None:
        """Reads what `str` gives; None for anything else."""
        match = re.fullmatch(r"([0-9]{1,20})\.([0-9]{1,10})\.([0-9]{1,20})", text)
        return cls(*map(int, match.groups())) if match else None

    def __str__(self) -> str:
        return f"{self.namespace}.{self.pid}.{self.started}"

    @property
    def is_dead(self) -> bool:
        """Whether it is known to run no more; of another namespace's processes nothing is known."""
        return self.namespace == _namespace() and _started(self.pid) != self.started


def _namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _started(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[_STARTED_FIELD])
