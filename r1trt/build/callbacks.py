"""What the builder calls while it works: its log, its progress, and the file that the engine goes into."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

# Without a GPU the library adds to many errors that it cannot ask one (35: no driver, 100: no device).
# That is beside the point wherever the target is named.
NOISE = ("cudaError 35", "cudaError 100", "CUDA initialization failure", "catchCudaError")
_REPORT_EVERY_S = 0.05


class Channel:
    """Events to the parent, cancellation from it."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)
        self.cancelled = False

    def send(self, event: str, **fields: Any) -> None:
        """Tell the parent."""
        self._file.write(json.dumps({"event": event, **fields}) + "\n")

    def check_cancelled(self) -> bool:
        """Whether the parent wants the build to end."""
        # Polled in the builder's own callbacks: a watching thread might never get the interpreter's lock.
        if not self.cancelled and select.select([sys.stdin], [], [], 0)[0]:
            self.cancelled = True
        return self.cancelled


def builder_logger(trt: Any, channel: Channel) -> Any:
    """An ILogger that sends warnings and errors."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class is only known once a module is chosen
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.WARNING and not any(noise in text for noise in NOISE):
                channel.send("log", severity=str(severity).rpartition(".")[2].lower(), text=text)

    return Logger()


def progress_monitor(trt: Any, channel: Channel) -> Any:
    """An IProgressMonitor that sends steps, and stops the builder when the build is cancelled."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # as above
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._last = 0.0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._steps[name] = steps
            channel.send("progress", phase=name, done=0, total=steps)

        def phase_finish(self, name: str) -> None:
            steps = self._steps.pop(name, 0)
            channel.send("progress", phase=name, done=steps, total=steps)

        def step_complete(self, name: str, step: int) -> bool:
            now = time.monotonic()
            if now - self._last >= _REPORT_EVERY_S:
                self._last = now
                channel.send("progress", phase=name, done=step + 1, total=self._steps.get(name, 0))
            return not channel.check_cancelled()

    return Monitor()


def file_writer(trt: Any, path: Path) -> Any:
    """An IStreamWriter into a file; it keeps the error that ended the writing."""

    class Writer(trt.IStreamWriter):  # type: ignore[misc]  # as above
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.file = path.open("wb")
            self.error: OSError | None = None

        def write(self, data: Any) -> int:
            try:
                return self.file.write(data)
            except OSError as error:
                self.error = error
                return 0

    return Writer()
