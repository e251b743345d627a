"""gRPC to the server: frames pass as they are, and the length of every message is looked at.

Triton takes messages of up to 2 GB. Here only frames (RFC 9113, section 4) and the prefix of each message
(gRPC over HTTP/2: one byte for compression, four for the length) are read; all else is the server's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from r1trt.door.admission import Admission
from r1trt.door.limits import DoorLimits
from r1trt.triton_server.grpc_streams import DATA, END_STREAM, RST_STREAM, OpenStreams, goaway

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = 9
_PADDED = 0x8
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
        admission: Whether requests are taken now.
    """

    def __init__(
        self, open_server: Callable[[], Awaitable[Streams]], limits: DoorLimits, admission: Admission
    ) -> None:
        self._open_server = open_server
        self._limits = limits
        self._admission = admission
        self._connections = 0
        self._streams: dict[asyncio.StreamWriter, OpenStreams] = {}

    @property
    def in_flight(self) -> int:
        """Calls whose answer is not complete."""
        return sum(streams.count for streams in list(self._streams.values()))

    def drain(self) -> None:
        """Has clients open no further streams; for the loop's thread. New connections are refused anyway."""
        for writer, streams in self._streams.items():
            writer.write(streams.finish())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hands one connection on, in both directions, until one side ends it."""
        self._connections += 1
        server: asyncio.StreamWriter | None = None
        try:
            # A connection that is closed before it was one is UNAVAILABLE to the client.
            if self._connections > self._limits.connections or not self._admission.is_open:
                return
            server_reader, server = await self._open_server()
            streams = self._streams[writer] = OpenStreams()
            checked = MessageLengths(self._limits.body_bytes)
            to_server = asyncio.ensure_future(_copy_checked(reader, server, checked, streams))
            to_client = asyncio.ensure_future(_copy_frames(server_reader, writer, streams))
            await asyncio.wait((to_server, to_client), return_when=asyncio.FIRST_COMPLETED)
            to_client.cancel()
            if to_server.done() and isinstance(error := to_server.exception(), RefusedMessageError):
                await _say_goaway(reader, writer, str(error))
            to_server.cancel()
        except OSError:
            pass
        finally:
            self._connections -= 1
            self._streams.pop(writer, None)
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
        if kind == DATA:
            padding = payload[0] if flags & _PADDED and payload else 0
            begin = 1 if flags & _PADDED else 0
            self._follow(self._streams.setdefault(stream, _Stream()), payload[begin : len(payload) - padding])
        if kind == RST_STREAM or (kind == DATA and flags & END_STREAM):
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
    reader: asyncio.StreamReader,
    server: asyncio.StreamWriter,
    lengths: MessageLengths,
    streams: OpenStreams,
) -> None:
    with suppress(asyncio.IncompleteReadError, OSError):
        preface = await reader.readexactly(len(_PREFACE))
        if preface != _PREFACE:
            return
        server.write(preface)
        while True:
            head, payload = await _frame(reader)
            stream = _stream(head)
            lengths.take(head[3], head[4], stream, payload)
            if streams.from_client(head[3], stream):
                server.write(head + payload)
                await server.drain()


async def _copy_frames(
    server: asyncio.StreamReader, writer: asyncio.StreamWriter, streams: OpenStreams
) -> None:
    """Whole frames, so that one of our own may stand between two."""
    with suppress(asyncio.IncompleteReadError, OSError):
        while True:
            head, payload = await _frame(server)
            streams.from_server(head[3], head[4], _stream(head))
            writer.write(head + payload)
            await writer.drain()


async def _frame(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(_HEAD)
    return head, await reader.readexactly(int.from_bytes(head[:3], "big"))


def _stream(head: bytes) -> int:
    return int.from_bytes(head[5:9], "big") & 0x7FFFFFFF


async def _say_goaway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, why: str) -> None:
    writer.write(goaway(0, _ENHANCE_YOUR_CALM, why))
    with suppress(TimeoutError, OSError):
        await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(_LINGER_S):
            while await reader.read(1 << 16):
                pass
