"""The front end's HTTP, with no server behind it: what is bounded, and who is delayed by whom."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from r1trt.door.admission import Admission
from r1trt.door.limits import DoorLimits
from r1trt.door.listening import LOOPBACK, PortError, is_loopback, listening_socket
from r1trt.openai.config import OpenAiConfig
from r1trt.openai.server import OpenAiServer

KEY = "sk-0123456789abcdef"
LIMITS = DoorLimits(body_bytes=4096, head_bytes=1024, head_s=0.5, body_s=0.5, connections=8, depth=8)
ALLOWED = f"Authorization: Bearer {KEY}\r\n"
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}]}).encode()

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


@asynccontextmanager
async def front_end(limits: DoorLimits = LIMITS) -> AsyncIterator[Connect]:
    """One whose Triton is not there."""
    with listening_socket(LOOPBACK, 0, fix="") as listening:
        # So that what a client does not read is soon more than the kernel keeps.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        admission = Admission()
        config = OpenAiConfig(models=("m",), port=1, keys=(KEY,), limits=limits)
        server = OpenAiServer(config, "127.0.0.1:1", admission)
        admission.admit()
        address = listening.getsockname()
        await server.start(listening)
        opened: list[asyncio.StreamWriter] = []

        async def connect() -> Streams:
            reader, writer = await asyncio.open_connection(*address)
            opened.append(writer)
            return reader, writer

        try:
            yield connect
        finally:
            for writer in opened:
                writer.close()
            await server.stop()


def post(body: bytes, headers: str = ALLOWED, path: str = "/v1/chat/completions") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def get(path: str, headers: str = ALLOWED) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()


async def ask(streams: Streams, request: bytes) -> tuple[int, dict[str, Any]]:
    """Status and JSON of one answer."""
    reader, writer = streams
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].partition("\r")[0])
    return int(head.split()[1]), json.loads(await reader.readexactly(length))


async def ended(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the connection ends, as it has to."""
    found = bytearray()
    async with asyncio.timeout(60):
        try:
            while data := await reader.read(1 << 16):
                found += data
        except ConnectionResetError:
            pass
    return bytes(found)


BAD: list[tuple[bytes, int, str, str | None]] = [
    (post(b'{"a": "' + b"x" * 5000 + b'"}'), 413, "larger than 4096 bytes", None),
    (post(b""), 400, "not JSON", None),
    (post(b"[]"), 400, "no object", None),
    (post(b'{"a": "\xff"}'), 400, "not JSON: 'utf-8'", None),
    (post(b"[" * 3000), 400, "nested more than 8 deep", None),
    (post(rb'{"model": "\ud800"}'), 400, "not Unicode", None),
    (post(CHAT, ALLOWED + "Content-Encoding: gzip\r\n"), 415, "Compressed", None),
    (post(CHAT.replace(b'"m"', b'"other"')), 404, 'The model "other" does not exist', "model_not_found"),
    (post(CHAT), 503, "is not there now", "unavailable"),
    (post(CHAT[:-1] + b', "temperature": 9}'), 400, "temperature is out of range", "invalid_value"),
    (post(CHAT, ""), 401, "provide an API key", "invalid_api_key"),
    (post(CHAT, "Authorization: Bearer sk-wrong\r\n"), 401, "Incorrect API key", "invalid_api_key"),
    (get("/v1/models", ""), 401, "provide an API key", "invalid_api_key"),
    (get("/v1/nothing"), 404, "Unknown request URL: GET /v1/nothing", "unknown_url"),
    (get("/v1/models/other"), 404, "does not exist", "model_not_found"),
    (get("/v1/completions"), 405, "Not allowed to GET", "method_not_supported"),
    (get("/health", ""), 503, "Not ready: model m.", "unavailable"),
]  # fmt: skip


def test_every_error_has_openais_form_and_its_status() -> None:
    async def run() -> None:
        async with front_end() as connect:
            streams = await connect()
            for request, status, says, code in BAD:
                found, content = await ask(streams, request)
                error = content["error"]
                assert (found, error["code"]) == (status, code), (request[:200], content)
                assert says in error["message"], content
                assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
            status, models = await ask(streams, get("/v1/models"))
            assert status == 200 and [model["id"] for model in models["data"]] == ["m"]
            assert (await ask(streams, get("/v1/models/m")))[1]["object"] == "model"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 5000 + b"\r\n\r\n", 431),
    ],
    ids=["tls", "two lengths", "large head"],
)
def test_what_is_no_request_is_answered_and_closed(data: bytes, status: int) -> None:
    async def run() -> None:
        async with front_end() as connect:
            streams = await connect()
            found, content = await ask(streams, data)
            assert found == status and content["error"]["type"] == "invalid_request_error"
            assert await ended(streams[0]) == b""

    asyncio.run(run())


SLOW = {
    "no head": b"",
    "half a head": b"GET /v1/models HTTP/1.1\r\nHost: x\r\n",
    "half a head, behind a request": get("/v1/models") + b"GET /v1/models HTTP/1.1\r\n",
}


@pytest.mark.parametrize("case", SLOW)
def test_a_head_has_its_time(case: str) -> None:
    async def run() -> None:
        async with front_end() as connect:
            reader, writer = await connect()
            writer.write(SLOW[case])
            assert (await ended(reader)).startswith(b"HTTP/1.1 200" if "behind" in case else b"")

    asyncio.run(run())


def test_a_body_has_its_time() -> None:
    async def run() -> None:
        async with front_end() as connect:
            status, content = await ask(await connect(), post(CHAT)[:-1])
            assert status == 408 and "more than" in content["error"]["message"]

    asyncio.run(run())


def ask_without_end(address: tuple[str, int]) -> None:
    """Sends requests and reads no answer; raises when the connection is cut."""
    with socket.socket() as asking:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asking.settimeout(60)
        asking.connect(address)
        while True:
            asking.sendall(get("/v1/models"))


def test_who_takes_nothing_of_an_answer_is_cut_off() -> None:
    async def run() -> None:
        async with front_end() as connect:
            _, writer = await connect()
            with pytest.raises(ConnectionError):
                await asyncio.to_thread(ask_without_end, writer.get_extra_info("peername"))

    asyncio.run(run())


def test_clients_that_say_nothing_make_room() -> None:
    """More of them than there may be, and one that asks is answered all the same, however often."""

    async def run() -> None:
        patient = DoorLimits(head_s=3600, body_s=3600, connections=8)
        async with front_end(patient) as connect:
            silent = [await connect() for _ in range(6 * patient.connections)]
            for _, writer in silent[1::2]:
                writer.write(post(CHAT)[:-1])  # all but a whole request
            asking = await connect()
            assert (await ask(asking, get("/v1/models")))[0] == 200
            assert await ended(silent[0][0]) == b""
            for _ in range(3):
                silent += [await connect() for _ in range(patient.connections - 2)]
                assert (await ask(asking, get("/v1/models")))[0] == 200

    asyncio.run(run())


def test_a_port_that_is_taken_is_named() -> None:
    with listening_socket(LOOPBACK, 0, fix="") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortError, match=f"Port {port}") as caught:
            listening_socket(LOOPBACK, port, fix="choose another")
        assert caught.value.details["fix"] == "choose another"
    with pytest.raises(PortError, match="This is no address"):
        listening_socket("no address", 1, fix="")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("192.168.0.1", False), ("::", False), ("example", False)],
)  # fmt: skip
def test_who_reaches_an_address(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
