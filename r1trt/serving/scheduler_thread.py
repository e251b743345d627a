"""A scheduler on a thread of its own, as a server needs it."""

from __future__ import annotations

import threading
import traceback

from r1trt.errors import R1TrtError
from r1trt.serving.fields import STOPPING
from r1trt.serving.request import CancelledError, Client, GenerationRequest
from r1trt.serving.scheduler import Scheduler


class SchedulerError(R1TrtError):
    """A defect ended the scheduler; nothing is served any longer."""


class SchedulerThread:
    """Steps a scheduler while it has work, and sleeps otherwise.

    Args:
        scheduler: Stepped by this thread only.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._work = threading.Event()
        self._stopping = False
        # Why nothing can be entered any more; guarded, so that nothing enters a queue that nobody reads.
        self._ended: R1TrtError | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="scheduler")
        self._thread.start()

    def submit(self, request: GenerationRequest, client: Client) -> None:
        """Enters a request, from any thread.

        Raises:
            RequestError: The scheduler refuses it, or is being closed.
            SchedulerError: The scheduler has failed.
        """
        with self._lock:
            if self._ended is not None:
                raise self._ended
            self._scheduler.submit(request, client)
        self._work.set()

    def close(self) -> None:
        """Ends every request with an error, and the thread."""
        self._stopping = True
        self._work.set()
        self._thread.join()

    def _run(self) -> None:
        ended: R1TrtError = CancelledError(STOPPING, fix="send the request again later")
        try:
            self._step_until_stopped()
        except Exception as error:  # a defect, whichever it is: clients that wait must not wait forever
            traceback.print_exc()
            ended = SchedulerError(
                "The scheduler failed.",
                found=repr(error),
                fix="start the server again; its log has the details",
            )
        with self._lock:
            self._ended = ended
        self._scheduler.close(ended)

    def _step_until_stopped(self) -> None:
        while not self._stopping:
            # Cleared before the step: a request that comes during it sets the event again.
            self._work.clear()
            if not self._scheduler.step():
                self._work.wait()
