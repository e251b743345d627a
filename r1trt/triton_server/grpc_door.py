"""gRPC to the server: frames pass as they are, and the length of every message is looked at.

Triton takes messages of up to 2 GB. Here only frames (RFC 9113, section 4) and the prefix of each message
(gRPC over HTTP/2: one byte for compression, four for the length) are read; all else is the server's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from r1trt.door.limits import DoorLimits

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = 9
_DATA, _RST_STREAM, _GOAWAY = 0x0, 0x3, 0x7
_END_STREAM, _PADDED = 0x1, 0x8
_ENHANCE_YOUR_CALM = 0xB
_MESSAGE_HEAD = 5
_LINGER_S = 1.0


class RefusedMessageError(Exception):
    """A message that does not pass."""


@dataclass
class _Stream:
    head: bytes = b""
    left: int = 0


class GrpcDoor:
    """One listening address in front of one server.

    Args:
        open_server: Connects to the server; raises OSError where there is none.
        limits: What may pass.
    """

    def __init__(self, open_server: Callable[[], Awaitable[Streams]], limits: DoorLimits) -> None:
        self._open_server = open_server
        self._limits = limits
        self._connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hands one connection on, in both directions, until one side ends it."""
        self._connections += 1
        server: asyncio.StreamWriter | None = None
        try:
            if self._connections > self._limits.connections:
                return
            server_reader, server = await self._open_server()
            checked = MessageLengths(self._limits.body_bytes)
            to_server = asyncio.ensure_future(_copy_checked(reader, server, checked))
            to_client = asyncio.ensure_future(_copy_frames(server_reader, writer))
            await asyncio.wait((to_server, to_client), return_when=asyncio.FIRST_COMPLETED)
            to_client.cancel()
            if to_server.done() and isinstance(error := to_server.exception(), RefusedMessageError):
                await _say_goaway(reader, writer, str(error))
            to_server.cancel()
        except OSError:
            pass
        finally:
            self._connections -= 1
            if server is not None:
                server.transport.abort()
            writer.close()


class MessageLengths:
    """Follows the messages in the DATA frames of all streams of a connection.

    Args:
        limit: Bytes that a message may have.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._streams: dict[int, _Stream] = {}

    def take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Looks at one frame of the client.

        Raises:
            RefusedMessageError: It begins a message that is too large, or compressed.
        """
        if kind == _DATA:
            padding = payload[0] if flags & _PADDED and payload else 0
            begin = 1 if flags & _PADDED else 0
            self._follow(self._streams.setdefault(stream, _Stream()), payload[begin : len(payload) - padding])
        if kind == _RST_STREAM or (kind == _DATA and flags & _END_STREAM):
            self._streams.pop(stream, None)

    def _follow(self, stream: _Stream, data: bytes) -> None:
        while data:
            if stream.left:
                taken = min(stream.left, len(data))
                stream.left -= taken
                data = data[taken:]
                continue
            missing = _MESSAGE_HEAD - len(stream.head)
            stream.head, data = stream.head + data[:missing], data[missing:]
            if len(stream.head) == _MESSAGE_HEAD:
                stream.left = self._length(stream.head)
                stream.head = b""

    def _length(self, head: bytes) -> int:
        length = int.from_bytes(head[1:], "big")
        if head[0]:
            raise RefusedMessageError("compressed messages are not taken")
        if length > self._limit:
            raise RefusedMessageError(f"a message of {length} bytes; at most {self._limit} are taken")
        return length


async def _copy_checked(
    reader: asyncio.StreamReader, server: asyncio.StreamWriter, lengths: MessageLengths
) -> None:
    with suppress(asyncio.IncompleteReadError, OSError):
        preface = await reader.readexactly(len(_PREFACE))
        if preface != _PREFACE:
            return
        server.write(preface)
        while True:
            head, payload = await _frame(reader)
            lengths.take(head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFFFFFF, payload)
            server.write(head + payload)
            await server.drain()


async def _copy_frames(server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Whole frames, so that one of our own may stand between two."""
    with suppress(asyncio.IncompleteReadError, OSError):
        while True:
            head, payload = await _frame(server)
            writer.write(head + payload)
            await writer.drain()


async def _frame(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(_HEAD)
    return head, await reader.readexactly(int.from_bytes(head[:3], "big"))


async def _say_goaway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, why: str) -> None:
    payload = bytes(4) + _ENHANCE_YOUR_CALM.to_bytes(4, "big") + why.encode()
    writer.write(len(payload).to_bytes(3, "big") + bytes([_GOAWAY, 0]) + bytes(4) + payload)
    with suppress(TimeoutError, OSError):
        await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(_LINGER_S):
            while await reader.read(1 << 16):
                pass
