"""What this program's processes use of the machine, and what is left to others; read from Linux's /proc."""

from __future__ import annotations

import os
import time
from pathlib import Path

from r1trt.machine import OthersShare as OthersShare
from r1trt.machine import processes_below as processes_below
from r1trt.machine import processor_seconds as processor_seconds

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


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
