"""The front door: what reaches the server, and what is answered without it."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.utils
from server_client import free_ports

from r1trt.door.limits import DoorLimits
from r1trt.triton_server.door_paths import allowed_methods
from r1trt.triton_server.environment import ServingEnvironment
from r1trt.triton_server.grpc_door import MessageLengths, RefusedMessageError
from r1trt.triton_server.process import is_ready
from r1trt.triton_server.serve import ServeConfig, ServedModels, served_models
from r1trt.triton_server.served_models import EngineToServe

FORM = "application/x-www-form-urlencoded"
SMUGGLED = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
LIMIT = DoorLimits.for_capacity(64).body_bytes


@pytest.fixture(scope="module")
def model(tiny_engine: Path, environment: ServingEnvironment) -> Iterator[ServedModels]:
    http_port, grpc, metrics = free_ports(3)
    config = ServeConfig(
        engines=(EngineToServe(path=tiny_engine),), http_port=http_port, grpc_port=grpc, metrics_port=metrics
    )
    with served_models(config) as served:
        yield served


def ask(
    address: str, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request(
            method, path, body, {name.replace("_", "-"): text for name, text in headers.items()}
        )
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content.startswith(b"{") else {}
    finally:
        connection.close()


def generate(model: ServedModels, body: bytes, **headers: str) -> tuple[int, dict[str, object]]:
    return ask(model.http, "POST", f"/v2/models/{model.name}/generate", body, **headers)


@pytest.mark.parametrize("kind", ["application/json", FORM, "text/plain"])
def test_json_is_taken_whatever_it_is_called(model: ServedModels, kind: str) -> None:
    status, answer = generate(model, b'{"text_input": "Every", "max_tokens": 2}', Content_Type=kind)
    assert status == 200 and answer["finish_reason"] in ("length", "eos")


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b'{"text_input": "' + b"the cat " * (4 << 17) + b'"}', 413, f"larger than {LIMIT} bytes"),
        (b"[" * 200_000, 400, "nested more than 64"),
        (b'{"text_input":' + b"[" * 65 + b"]" * 65 + b"}", 400, "nested more than 64"),
        (b"a=b&" * 200_000, 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b'{"text_input": "a", "max_tokens": 4294967300}', 400, "max_tokens is out of range"),
        (b"", 400, "not JSON"),
        (b"[]", 400, "no object"),
        (b'"text_input"', 400, "no object"),
        (b'{"text_input": "a", "temperature": 1e400}', 400, "not JSON: 1e400 is larger"),
        (b'{"text_input": "a", "temperature": NaN}', 400, "not JSON: NaN is no number"),
        (b'{"text_input": "a", "max_tokens": 1' + b"0" * 5000 + b"}", 400, "a number of 5001 digits"),
    ],
    ids=[
        "4_MiB",
        "brackets",
        "nested",
        "form",
        "bytes",
        "overflow",
        "empty",
        "list",
        "text",
        "infinite",
        "nan",
        "digits",
    ],
)
def test_what_would_end_the_server_does_not_reach_it(
    model: ServedModels, body: bytes, status: int, says: str
) -> None:
    for kind in ("application/json", FORM):
        found, answer = generate(model, body, Content_Type=kind)
        assert found == status and says in str(answer["error"])
    assert is_ready(int(model.http.rpartition(":")[2]))


def test_chunks_are_counted(model: ServedModels) -> None:
    host, _, port = model.http.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        head = (
            f"POST /v2/models/{model.name}/generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        client.sendall(head.encode())
        for _ in range(LIMIT // 65536 + 1):
            client.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("request_head", "says"),
    [
        (SMUGGLED, b"no such path"),
        (b"GET /v2 HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", b"are larger than 32768"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"no HTTP request"),
    ],
    ids=["smuggled", "large_head", "tls"],
)
def test_what_is_no_request_is_answered_and_closed(
    model: ServedModels, request_head: bytes, says: bytes
) -> None:
    host, _, port = model.http.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(request_head)
        answer = b""
        while data := client.recv(4096):
            answer += data
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 503"))
        assert says in answer


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/logging", 403),
        ("POST", "/v2/systemsharedmemory/region/x/register", 403),
        ("POST", "/v2/cudasharedmemory/region/x/register", 403),
        ("POST", "/v2/trace/setting", 403),
        ("POST", "/v2/repository/models/tiny/unload", 403),
        ("GET", "/", 403),
        ("GET", "/v2/../v2/logging", 403),
        ("DELETE", "/v2/health/ready", 405),
        ("GET", "/v2/health/ready", 200),
        ("GET", "/v2", 200),
        ("GET", "/v2/models/stats", 200),
        ("POST", "/v2/repository/index", 200),
    ],
)
def test_only_what_changes_nothing_is_open(model: ServedModels, method: str, path: str, status: int) -> None:
    assert ask(model.http, method, path)[0] == status


@pytest.mark.parametrize("lengths", [["9" * 5000], ["2", "100002"], ["x"], ["-1"]], ids=str)
def test_the_length_of_json_in_front_of_binary_data_is_one_number(
    model: ServedModels, lengths: list[str]
) -> None:
    connection = http.client.HTTPConnection(model.http, timeout=60)
    connection.putrequest("POST", f"/v2/models/{model.name}/infer")
    for length in lengths:
        connection.putheader("Inference-Header-Content-Length", length)
    connection.putheader("Content-Length", "2")
    connection.endheaders(b"{}")
    answer = connection.getresponse()
    assert answer.status == 400 and b"one number of bytes" in answer.read()
    connection.close()


def test_the_whole_body_of_a_request_for_text_is_json(model: ServedModels) -> None:
    body = b'{"text_input": "a", "max_tokens": 1} more'
    status, answer = generate(model, body, Inference_Header_Content_Length=str(len(body) - 5))
    assert status == 400 and "not JSON" in str(answer["error"])


def test_metrics_are_read_only(model: ServedModels) -> None:
    assert ask(model.metrics, "GET", "/metrics")[0] == 200
    assert ask(model.metrics, "POST", "/metrics", b"x" * (2 << 20), Content_Type=FORM)[0] == 405


def test_one_connection_asks_many_times(model: ServedModels) -> None:
    connection = http.client.HTTPConnection(model.http, timeout=60)
    for path, status in (("/v2/health/ready", 200), ("/v2/logging", 403), ("/v2/health/ready", 200)) * 5:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
    connection.close()


def test_grpc_refuses_what_is_large_or_changes_the_server(model: ServedModels) -> None:
    client = tritonclient.grpc.InferenceServerClient(model.grpc)
    for change in (
        lambda: client.update_log_settings({"log_verbose_level": 1}),
        lambda: client.register_system_shared_memory("x", "/x", 10),
        lambda: client.unload_model(model.name),
    ):
        with pytest.raises(tritonclient.utils.InferenceServerException, match="restricted"):
            change()
    text = tritonclient.grpc.InferInput("text_input", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([[b"x" * (2 * LIMIT)]], dtype=object))
    with pytest.raises(tritonclient.utils.InferenceServerException, match=f"at most {LIMIT}"):
        client.infer(model.name, [text])
    again = tritonclient.grpc.InferenceServerClient(model.grpc)
    assert again.is_server_ready()


def frame(message: bytes, *, compressed: int = 0) -> bytes:
    return bytes([compressed]) + len(message).to_bytes(4, "big") + message


def test_messages_are_followed_over_frames_and_streams() -> None:
    lengths = MessageLengths(100)
    data = frame(b"x" * 100) + frame(b"") + frame(b"y" * 7)
    for stream in (1, 3):
        for letter in data:
            lengths.take(0, 0, stream, bytes([letter]))
    # Padding is no part of a message.
    lengths.take(0, 8, 5, bytes([4]) + frame(b"x" * 100) + b"\xff" * 4)
    lengths.take(0, 1, 5, frame(b"z"))
    for bad, says in ((frame(b"x" * 101), "101 bytes"), (frame(b"x", compressed=1), "compressed")):
        with pytest.raises(RefusedMessageError, match=says):
            lengths.take(0, 0, 7, bad)
        lengths.take(3, 0, 7, bytes(4))


@pytest.mark.parametrize(
    ("target", "methods"),
    [
        ("/v2/models/m/versions/1/infer", ("POST",)),
        ("/v2/models/m/generate_stream?x=1", ("POST",)),
        ("/v2/models/a/b/generate", ()),
        ("/v2/models/m/config", ("GET", "HEAD")),
        ("/v2/health/live", ("GET", "HEAD")),
        ("/metrics", ()),
    ],
)
def test_paths(target: str, methods: tuple[str, ...]) -> None:
    assert allowed_methods(target) == methods


def test_the_limit_has_room_for_the_longest_prompt() -> None:
    assert DoorLimits.for_capacity(64).body_bytes == 1 << 20
    assert DoorLimits.for_capacity(131072).body_bytes > 6 * 64 * 131072
