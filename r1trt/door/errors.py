"""Why a request does not pass."""

from __future__ import annotations


class RefusedError(Exception):
    """A request that is answered here.

    Args:
        status: Of HTTP.
        message: For the client.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
