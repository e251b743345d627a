"""What this program's processes use of the machine, and what is left to others; read from Linux's /proc."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def processes_below(pid: int) -> list[int]:
    """A process and all its descendants that are running."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):  # a thread that ended meanwhile
                found += map(int, children.read_text().split())
    return found


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used, of all its threads, and of its children that ended."""
    # The program's name, in brackets, may hold blanks.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


class OthersShare:
    """Part of this machine's processor time that processes other than ours take, from its construction on.

    What the host takes from a virtual machine counts as taken by others.
    """

    def __init__(self) -> None:
        self._busy, self._total = _busy_and_total()
        self._ours = _our_seconds()

    def share(self) -> float:
        """The part so far, 0 to 1."""
        busy, total = _busy_and_total()
        others = (busy - self._busy) - (_our_seconds() - self._ours)
        return round(min(max(others / max(total - self._total, 1e-9), 0.0), 1.0), 3)


def wait_for_quiet(share: float, patience: float, window: float = 2.0) -> float:
    """Waits until others take at most `share` for a `window`, `patience` at most; seconds.

    Returns:
        Their share of the last window.
    """
    deadline = time.monotonic() + patience
    while True:
        others = OthersShare()
        time.sleep(window)
        if (last := others.share()) <= share or time.monotonic() > deadline:
            return last


def _busy_and_total() -> tuple[float, float]:
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    seconds = [int(field) / TICKS for field in fields]
    idle = seconds[3] + seconds[4]
    return sum(seconds) - idle, sum(seconds)


def _our_seconds() -> float:
    return sum(processor_seconds(pid) for pid in processes_below(os.getpid()))
