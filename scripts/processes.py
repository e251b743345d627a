"""What this program's processes use of the machine, and what is left to others; read from Linux's /proc."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from r1trt.machine import OthersShare as OthersShare
from r1trt.machine import processes_below as processes_below
from r1trt.machine import processor_seconds as processor_seconds

PAGE = os.sysconf("SC_PAGE_SIZE")
SAMPLING_SECONDS = 0.02


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


class Peak:
    """The largest value of a figure while the block runs, by sampling.

    Args:
        sampled: The figure now.
    """

    def __init__(self, sampled: Callable[[], int]) -> None:
        self.bytes = 0
        self._sampled, self._ended = sampled, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLING_SECONDS):
            self.bytes = max(self.bytes, self._sampled())


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
