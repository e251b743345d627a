"""HTTP to the server: every request is read whole and looked at before it is handed on.

The bundled server has no limit of its own: a form of 4 MiB, which is how `curl -d` sends JSON, or brackets
nested 100,000 deep end it with SIGSEGV.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress

import h11

from r1trt.door.admission import NOT_READY, RETRY_S, Admission
from r1trt.door.body import object_from_body
from r1trt.door.errors import RefusedError
from r1trt.door.limits import DoorLimits
from r1trt.triton_server.door_errors import ClientGoneError
from r1trt.triton_server.door_paths import (
    allowed_methods,
    asks_for_text,
    is_stream,
    model_asked,
    takes_no_body,
)
from r1trt.triton_server.http_answer import HOP_BY_HOP, hand_back
from r1trt.triton_server.request_json import require_fields

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_CHUNK = 1 << 16
_OURS = {b"host", b"content-length", b"content-type", b"expect"}
_JSON_LENGTH = b"inference-header-content-length"
_MOST_LENGTH_DIGITS = 10


class HttpDoor:
    """One listening address in front of one server.

    Args:
        open_server: Connects to the server; raises OSError where there is none.
        limits: What may pass.
        admission: Whether requests are taken now.
        methods: Allowed methods of a path.
    """

    def __init__(
        self,
        open_server: Callable[[], Awaitable[Streams]],
        limits: DoorLimits,
        admission: Admission,
        methods: Callable[[str], tuple[str, ...]] = allowed_methods,
    ) -> None:
        self._open_server = open_server
        self._limits = limits
        self._admission = admission
        self._methods = methods
        self._connections = 0
        self.in_flight = 0
        """Requests that were handed on, and whose answer is not complete."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the requests of one connection, one after the other."""
        self._connections += 1
        client = _Client(reader, writer, self._limits)
        try:
            while await self._exchange(client):
                client.http.start_next_cycle()
        except (ClientGoneError, OSError, TimeoutError, h11.LocalProtocolError):
            pass
        finally:
            self._connections -= 1
            writer.transport.abort() if client.is_broken else writer.close()

    async def _exchange(self, client: _Client) -> bool:
        """One request and its answer; whether another may follow."""
        try:
            request = await client.request()
            if request is None:
                return False
            self._require_allowed(request)
            body = await client.body(request)
            _require_json(request, body, self._limits.depth)
            await self._answer(client, request, body)
        except RefusedError as refused:
            return await client.refuse(refused.status, str(refused), self._admission.retry_s)
        except h11.RemoteProtocolError as error:
            return await client.refuse(error.error_status_hint, self._unreadable(error), RETRY_S)
        return client.http.our_state is h11.DONE and client.http.their_state is h11.DONE

    def _unreadable(self, error: h11.RemoteProtocolError) -> str:
        if error.error_status_hint == 431:
            return f"The request's line and headers are larger than {self._limits.head_bytes} bytes."
        return "This is no HTTP request."

    def _require_allowed(self, request: h11.Request) -> None:
        if self._connections > self._limits.connections:
            raise RefusedError(503, f"More than {self._limits.connections} connections; try again later.")
        methods = self._methods(request.target.decode("latin-1"))
        if not methods:
            raise RefusedError(
                403, "This server has no such path, or has it switched off (docs/serving.md lists all)."
            )
        if request.method.decode() not in methods:
            raise RefusedError(405, f"This path takes {' and '.join(methods)} only.")

    async def _answer(self, client: _Client, request: h11.Request, body: bytes) -> None:
        """Hands a request on, and its answer back as it comes."""
        if (why := self._admission.refusal_of(request.target.decode("latin-1"))) is not None:
            raise RefusedError(503, why)
        try:
            server_reader, server = await self._open_server()
        except OSError as error:
            raise RefusedError(503, NOT_READY) from error
        self.in_flight += 1
        try:
            server.write(_handed_on(request, body))
            pump = asyncio.ensure_future(hand_back(server_reader, client.send, request.method))
            gone = asyncio.ensure_future(client.left())
            await asyncio.wait((pump, gone), return_when=asyncio.FIRST_COMPLETED)
            is_answered = pump.done()
            # Both have to have ended before the connection is read from again.
            for task in (pump, gone):
                task.cancel()
            await asyncio.wait((pump, gone))
            if not is_answered:
                raise ClientGoneError
            pump.result()
        finally:
            self.in_flight -= 1
            # At once: the server then knows that nobody waits for the answer.
            server.transport.abort()


class _Client:
    """One connection of a client."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: DoorLimits
    ) -> None:
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self.is_broken = False
        self._reader, self._writer, self._limits = reader, writer, limits

    async def request(self) -> h11.Request | None:
        """The next request's head; None where the client has no more."""
        async with asyncio.timeout(self._limits.head_s):
            event = await self._next()
        return event if isinstance(event, h11.Request) else None

    async def body(self, request: h11.Request) -> bytes:
        """A request's whole body.

        Raises:
            RefusedError: It is larger than the limit, compressed, or does not come.
        """
        headers = dict(request.headers)
        if b"content-encoding" in headers:
            raise RefusedError(415, "Compressed requests are not taken.")
        limit = self._limits.for_model(model_asked(request.target.decode("latin-1")))
        if int(headers.get(b"content-length", b"0")) > limit:
            raise _too_large(limit)
        if self.http.they_are_waiting_for_100_continue:
            await self.send(h11.InformationalResponse(status_code=100, headers=[]))
        found = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_s):
                while isinstance(event := await self._next(), h11.Data):
                    found += event.data
                    if len(found) > limit:
                        raise _too_large(limit)
        except TimeoutError as error:
            raise RefusedError(408, f"The body took more than {self._limits.body_s:.0f} s.") from error
        if not isinstance(event, h11.EndOfMessage):
            raise ClientGoneError
        return bytes(found)

    async def send(self, event: h11.Event) -> None:
        """Sends a part of an answer.

        Raises:
            ClientGoneError: The client takes nothing for too long.
        """
        data = self.http.send(event)
        if not data:
            return
        self._writer.write(data)
        try:
            async with asyncio.timeout(self._limits.body_s):
                await self._writer.drain()
        except (TimeoutError, OSError) as error:
            self.is_broken = True
            raise ClientGoneError from error

    async def refuse(self, status: int, message: str, retry_s: int) -> bool:
        """Answers here; whether another request may follow."""
        if self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.is_broken = True
            return False
        content = json.dumps({"error": message}).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        if status == 503:
            headers.append(("Retry-After", str(retry_s)))
        finished = self.http.their_state is h11.DONE
        if not finished:
            headers.append(("Connection", "close"))
        await self.send(h11.Response(status_code=status, headers=headers))
        await self.send(h11.Data(data=content))
        await self.send(h11.EndOfMessage())
        if not finished:
            await self._swallow()
        return finished

    async def left(self) -> None:
        """Ends when the client closes its connection."""
        while data := await self._reader.read(_CHUNK):
            self.http.receive_data(data)
            if len(self.http.trailing_data[0]) > self._limits.body_bytes:
                return

    async def _next(self) -> object:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            data = await self._reader.read(_CHUNK)
            self.http.receive_data(data)
        if event is h11.PAUSED:
            raise RefusedError(400, "Another request came before its turn.")
        return event

    async def _swallow(self) -> None:
        """Reads on for a moment: a client that still sends would lose its answer to a reset."""
        self._writer.write_eof()
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(1.0):
                while await self._reader.read(_CHUNK):
                    pass


def _handed_on(request: h11.Request, body: bytes) -> bytes:
    """The request as the server gets it: with its body's length, and as JSON whatever the client said."""
    target = request.target.decode("latin-1")
    # To a path that takes fields by name the whole body is JSON.
    dropped = _OURS | HOP_BY_HOP | ({_JSON_LENGTH} if asks_for_text(target) else set())
    kept = [(name, value) for name, value in request.headers if name not in dropped]
    own = [(b"Host", b"localhost"), (b"Connection", b"close")]
    if request.method == b"POST":
        kind = b"application/octet-stream" if _JSON_LENGTH in dict(kept) else b"application/json"
        own += [(b"Content-Type", kind), (b"Content-Length", str(len(body)).encode())]
    http = h11.Connection(h11.CLIENT)
    parts = [http.send(h11.Request(method=request.method, target=request.target, headers=own + kept))]
    if body and request.method == b"POST":
        parts.append(http.send(h11.Data(data=body)))
    return b"".join(part for part in parts if part)


def _require_json(request: h11.Request, body: bytes, depth: int) -> None:
    target = request.target.decode("latin-1")
    if request.method != b"POST" or (not body and takes_no_body(target)):
        return
    if asks_for_text(target):
        require_fields(object_from_body(body, depth), streams=is_stream(target))
    else:
        object_from_body(body[: _json_length(request, len(body))], depth)


def _json_length(request: h11.Request, whole: int) -> int:
    """Bytes of JSON in front of binary data in a body."""
    given = [value for name, value in request.headers if name == _JSON_LENGTH]
    if not given:
        return whole
    if len(given) > 1 or not given[0].isdigit() or len(given[0]) > _MOST_LENGTH_DIGITS:
        raise RefusedError(400, f"{_JSON_LENGTH.decode()} is one number of bytes, given once.")
    return int(given[0])


def _too_large(limit: int) -> RefusedError:
    return RefusedError(413, f"The body is larger than {limit} bytes, the most that a request may have.")
