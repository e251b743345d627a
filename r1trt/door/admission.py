"""Whether requests are taken now, and what is said where they are not."""

from __future__ import annotations

NOT_READY = "The model is not ready; try again in some seconds."
RETRY_S = 1


class Admission:
    """Shared by everything that listens; read and written from any thread.

    Attributes:
        refusal: What a request is answered with; None where it is handed on.
        retry_s: Seconds after which the same request may succeed.
    """

    def __init__(self) -> None:
        self.refusal: str | None = NOT_READY
        self.retry_s = RETRY_S

    @property
    def is_open(self) -> bool:
        """Whether requests are handed on."""
        return self.refusal is None

    def admit(self) -> None:
        """From now on requests are handed on."""
        self.refusal = None

    def refuse(self, why: str = NOT_READY, *, retry_s: int = RETRY_S) -> None:
        """From now on every request is answered with 503."""
        self.refusal, self.retry_s = why, retry_s
