"""The server's answer over HTTP, handed back to the client as it comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import h11

from r1trt.door.errors import RefusedError
from r1trt.door.model_errors import status_of_error

HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
}  # fmt: skip
"""Headers of one connection only."""

_CHUNK = 1 << 16
_LONGEST_ERROR = 1 << 20
_RETRY_AFTER = (b"Retry-After", b"1")


async def hand_back(
    server: asyncio.StreamReader, send: Callable[[h11.Event], Awaitable[None]], method: bytes
) -> None:
    """Hands the server's answer to a request on.

    Triton answers 400 whatever a model says; a full queue becomes 503, and a failure 500.

    Args:
        server: Where it comes from.
        send: Takes each part of it.
        method: Of the request.

    Raises:
        RefusedError: The server ended in the middle.
    """
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method=method, target="/", headers=[("Host", "localhost")]))
    http.send(h11.EndOfMessage())
    error: h11.Response | None = None
    body = bytearray()
    while True:
        event = await _next(http, server)
        if isinstance(event, h11.Response):
            if event.status_code == 400:
                error = event
            else:
                await send(_passed_on(event, event.status_code))
        elif isinstance(event, h11.Data):
            if error is None:
                await send(h11.Data(data=event.data))
            else:
                body += event.data
            if error is not None and len(body) > _LONGEST_ERROR:
                await _send_error(send, error, bytes(body))
                error = None
        elif isinstance(event, h11.EndOfMessage):
            if error is not None:
                await _send_error(send, error, bytes(body))
            await send(h11.EndOfMessage())
            return


async def _send_error(
    send: Callable[[h11.Event], Awaitable[None]], response: h11.Response, body: bytes
) -> None:
    await send(_passed_on(response, _status(body)))
    await send(h11.Data(data=body))


def _status(body: bytes) -> int:
    try:
        text = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 400
    return status_of_error(text) if isinstance(text, str) else 400


async def _next(http: h11.Connection, server: asyncio.StreamReader) -> object:
    try:
        while (event := http.next_event()) is h11.NEED_DATA:
            http.receive_data(await server.read(_CHUNK))
    except (h11.RemoteProtocolError, OSError) as error:
        raise RefusedError(503, "The model ended before it had answered; ask again.") from error
    if isinstance(event, h11.ConnectionClosed):
        raise RefusedError(503, "The model ended before it had answered; ask again.")
    return event


def _passed_on(response: h11.Response, status: int) -> h11.Response:
    kept = [(name, value) for name, value in response.headers.raw_items() if name.lower() not in HOP_BY_HOP]
    return h11.Response(status_code=status, headers=[*kept, _RETRY_AFTER] if status == 503 else kept)
