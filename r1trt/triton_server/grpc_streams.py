"""The streams of one gRPC connection: which are open, and which may still be opened.

A gRPC call is one stream of HTTP/2 (RFC 9113): the client's first HEADERS opens it, the server's last frame
or either side's RST_STREAM closes it.
"""

from __future__ import annotations

DATA, HEADERS, RST_STREAM, GOAWAY = 0x0, 0x1, 0x3, 0x7
END_STREAM = 0x1


class OpenStreams:
    """Follows the frames of both sides."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._last = 0
        self._is_final = False

    @property
    def count(self) -> int:
        """Streams whose answer is not complete."""
        return len(self._open)

    def from_client(self, kind: int, stream: int) -> bool:
        """Enters a frame of the client; whether it may pass."""
        if self._is_final and stream > self._last:
            return False
        if kind == HEADERS and stream > self._last:
            self._last = stream
            self._open.add(stream)
        if kind == RST_STREAM:
            self._open.discard(stream)
        return True

    def from_server(self, kind: int, flags: int, stream: int) -> None:
        """Enters a frame of the server."""
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            self._open.discard(stream)

    def finish(self) -> bytes:
        """No stream may be opened any more; returns the frame that says so to the client (GOAWAY)."""
        self._is_final = True
        return goaway(self._last, 0)


def goaway(last_stream: int, code: int, why: str = "") -> bytes:
    """A GOAWAY frame: streams above the last one were not looked at, and may be sent elsewhere."""
    payload = last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + why.encode()
    return len(payload).to_bytes(3, "big") + bytes([GOAWAY, 0]) + bytes(4) + payload
