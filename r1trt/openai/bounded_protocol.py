"""uvicorn's HTTP with limits that it does not have: of connections, and of the time that clients may take."""

from __future__ import annotations

import asyncio
import json
import sys
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from r1trt.door.limits import DoorLimits
from r1trt.openai.errors import ApiError, unavailable


class BoundedProtocol(H11Protocol):
    """A connection.

    Where there are too many, the one goes that has waited longest for its client to say something: who opens
    thousands, or sends bodies a byte a minute, takes nobody's place.

    Attributes:
        limits: What it may take.
        waiting: Connections that wait for their client, in the order in which they began to.
    """

    limits: DoorLimits
    waiting: dict[H11Protocol, None]
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """See asyncio.Protocol."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections and not self._make_room():
            message = f"More than {self.limits.connections} requests at a time; try again later."
            transport.write(_answer(unavailable(message)))
            transport.close()
        else:
            self._wait_for_client()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        # In pieces, since h11 looks at a head's size only where it is not whole yet.
        for start in range(0, len(data), self.limits.head_bytes):
            if not self.transport.is_closing():
                super().data_received(data[start : start + self.limits.head_bytes])
        self._note_request()

    def on_response_complete(self) -> None:
        """Called by uvicorn."""
        self._wait_for_client()
        super().on_response_complete()
        self._note_request()

    def pause_writing(self) -> None:
        """See asyncio.Protocol: the client takes nothing of its answer."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.limits.body_s, self.transport.abort)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.waiting.pop(self, None)
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what is no request."""
        self.transport.write(_answer(_refusal(sys.exception(), self.limits)))
        self.transport.close()

    def _wait_for_client(self) -> None:
        self.waiting[self] = None
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(self.limits.head_s, self._end_without_request)

    def _note_request(self) -> None:
        """A request that is there as a whole waits for its client no more."""
        if self._has_request() and not self.cycle.more_body:
            self.waiting.pop(self, None)

    def _has_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _end_without_request(self) -> None:
        if not self._has_request():
            self.transport.close()

    def _make_room(self) -> bool:
        if not self.waiting:
            return False
        first = next(iter(self.waiting))
        del self.waiting[first]
        first.transport.abort()
        return True


def bounded_protocol(limits: DoorLimits) -> type[H11Protocol]:
    """The protocol of one front end's connections."""
    return type("BoundedProtocol", (BoundedProtocol,), {"limits": limits, "waiting": {}})


def _refusal(error: BaseException | None, limits: DoorLimits) -> ApiError:
    if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431:
        return ApiError(431, f"The request's line and headers are larger than {limits.head_bytes} bytes.")
    return ApiError(400, "This is no HTTP request.")


def _answer(error: ApiError) -> bytes:
    """An answer on a connection that ends with it."""
    http, body = h11.Connection(h11.SERVER), json.dumps(error.content).encode()
    http.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    http.next_event()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    reason = HTTPStatus(error.status).phrase.encode()
    parts = (
        h11.Response(
            status_code=error.status,
            reason=reason,
            headers=[*headers, ("Connection", "close"), *error.headers.items()],
        ),
        h11.Data(data=body),
        h11.EndOfMessage(),
    )
    return b"".join(filter(None, map(http.send, parts)))
