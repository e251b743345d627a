"""Why a connection ends before its answer does."""

from __future__ import annotations


class ClientGoneError(Exception):
    """The client closed its connection, or takes nothing of its answer."""
