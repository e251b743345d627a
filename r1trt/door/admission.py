"""Whether requests are taken now, and what is said where they are not."""

from __future__ import annotations

from math import ceil

NOT_READY = "The model is not ready; try again in some seconds."
ENDING = "The server is ending, and takes no more requests; ask again later."
RETRY_S = 1
_WHILE_ENDING = ("/v2/health/live", "/metrics")


class Admission:
    """Shared by everything that listens; read and written from any thread.

    Attributes:
        refusal: What a request is answered with; None where it is handed on.
        retry_s: Seconds after which the same request may succeed.
        is_ending: It refuses for good, while requests that were taken go on.
    """

    def __init__(self) -> None:
        self.refusal: str | None = NOT_READY
        self.retry_s = RETRY_S
        self.is_ending = False

    @property
    def is_open(self) -> bool:
        """Whether requests are handed on."""
        return self.refusal is None

    def admit(self) -> None:
        """From now on requests are handed on, unless it is ending."""
        if not self.is_ending:
            self.refusal = None

    def refuse(self, why: str = NOT_READY) -> None:
        """From now on every request is answered with 503."""
        self.refusal = why

    def end(self, seconds: float) -> None:
        """From now on new requests are answered with 503; those that were taken have so many seconds."""
        self.is_ending, self.retry_s = True, max(ceil(seconds), RETRY_S)
        self.refusal = ENDING

    def refusal_of(self, path: str) -> str | None:
        """What a request for a path is answered with: a server that is ending is alive, and is watched."""
        return None if self.is_ending and path in _WHILE_ENDING else self.refusal
