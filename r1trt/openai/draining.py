"""uvicorn's server, which lets requests that run go on for a while when a signal ends it."""

from __future__ import annotations

import time
from types import FrameType

import uvicorn

from r1trt.door.admission import Admission


class DrainingServer(uvicorn.Server):
    """A server.

    Args:
        config: uvicorn's.
        admission: Refuses requests from the first signal on.
        seconds: For those that run then; a second signal ends them at once. With 0 the first one does.
    """

    def __init__(self, config: uvicorn.Config, admission: Admission, seconds: float) -> None:
        super().__init__(config)
        self._admission, self._seconds = admission, seconds
        self._first: tuple[int, float] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by a signal."""
        if self._seconds and self._first is None:
            self._admission.end(self._seconds)
            self._first = (sig, time.monotonic() + self._seconds)
            return
        super().handle_exit(sig, frame)
        if self._first is not None:
            self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn every 0.1 s; whether it ends now."""
        if self._first is not None and not self.should_exit:
            number, end = self._first
            if not self.server_state.tasks or time.monotonic() >= end:
                super().handle_exit(number, None)
        return await super().on_tick(counter)
