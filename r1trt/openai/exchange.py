"""One exchange of HTTP: a body that is bounded in size and time, and an answer that ends with its client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from r1trt.door.body import object_from_body
from r1trt.door.errors import RefusedError
from r1trt.door.limits import DoorLimits
from r1trt.openai.errors import ApiError, invalid

Result = TypeVar("Result")

_LONG_BODY = 1 << 16
"""Parsing a longer one would hold up the other connections noticeably."""
_MOST_LENGTH_DIGITS = 10
_EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class ClientLeftError(Exception):
    """Nobody waits for the answer any more."""


async def object_from_request(scope: Scope, receive: Receive, limits: DoorLimits) -> dict[str, Any]:
    """Reads a request's body, and parses it.

    Raises:
        ApiError: It is too large, compressed, does not come, or is no JSON object.
        ClientLeftError: The client closed its connection.
    """
    body = await _body(scope, receive, limits)
    try:
        if len(body) < _LONG_BODY:
            found = object_from_body(body, limits.depth)
        else:
            found = await asyncio.to_thread(object_from_body, body, limits.depth)
    except RefusedError as error:
        raise invalid(str(error)) from error
    if len(body) > (most := limits.for_model(found.get("model"))):
        raise _too_large(most)
    return found


async def unless_left(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Runs what answers a request; cancels it as soon as the client closes its connection.

    Raises:
        ClientLeftError: It did.
    """
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeftError
        return task.result()
    finally:
        for pending in (task, left):
            pending.cancel()
        await asyncio.wait((task, left))


async def send_whole(send: Send, content: dict[str, Any]) -> None:
    """Sends JSON."""
    body = _json(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_events(send: Send, contents: AsyncGenerator[dict[str, Any], None]) -> None:
    """Sends server-sent events; begins with the first, so that an error before it has its own status."""
    async with aclosing(contents) as chunks:
        first = await anext(chunks, None)
        await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
        try:
            if first is not None:
                await _send_event(send, _json(first))
            async for content in chunks:
                await _send_event(send, _json(content))
        except ApiError as error:
            await _send_event(send, _json(error.content))
        await _send_event(send, b"[DONE]")
        await send({"type": "http.response.body", "body": b""})


async def _send_event(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True})


async def _body(scope: Scope, receive: Receive, limits: DoorLimits) -> bytes:
    headers, found = Headers(scope=scope), bytearray()
    if "content-encoding" in headers:
        raise ApiError(415, "Compressed requests are not taken.")
    length = headers.get("content-length", "0")
    if len(length) > _MOST_LENGTH_DIGITS or int(length) > limits.body_bytes:
        raise _too_large(limits.body_bytes)
    try:
        async with asyncio.timeout(limits.body_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeftError
                found += message.get("body", b"")
                if len(found) > limits.body_bytes:
                    raise _too_large(limits.body_bytes)
                if not message.get("more_body", False):
                    return bytes(found)
    except TimeoutError as error:
        raise ApiError(408, f"The body took more than {limits.body_s:.0f} s.") from error


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"The body is larger than {limit} bytes, the most that a request may have.")


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
