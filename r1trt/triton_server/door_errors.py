"""Why a request does not pass the front door."""

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


class ClientGoneError(Exception):
    """The client closed its connection, or takes nothing of its answer."""
