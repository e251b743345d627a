"""`r1trt serve --drain-seconds` under a signal: what runs comes to its end, and nothing new is taken."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
import tritonclient.grpc
from cpu_engines import cpu_engine
from server_client import events, free_ports, get, infer_inputs, metric, post
from tiny_checkpoints import write_llama

from r1trt.triton_server.grpc_streams import DATA, END_STREAM, HEADERS, RST_STREAM, OpenStreams

# So many tokens last for seconds, even of a tiny model.
CAPACITY, TOKENS, ENDLESS = 32768, 2000, 32000  # some seconds, and far longer than any test
MODEL = "smollm2"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("long")
    checkpoint = write_llama(
        directory / "checkpoint", tokenizer=True, seed=4, max_position_embeddings=CAPACITY
    )
    return cpu_engine(checkpoint, directory, max_seq_len=CAPACITY, rows=4)


@contextmanager
def serving(engine: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    names = ("--http-port", "--grpc-port", "--metrics-port", "--openai-port")
    ports = [text for name, port in zip(names, free_ports(4), strict=True) for text in (name, str(port))]
    command = [sys.executable, "-m", "r1trt", "serve", str(engine), "--model-name", MODEL, *ports, *options]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def status(address: str, path: str) -> tuple[int, str | None]:
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.headers["Retry-After"]
    finally:
        connection.close()


def over_http(said: dict[str, Any], tokens: int = TOKENS) -> str:
    asked = {"text_input": "Every function", "max_tokens": tokens, "stream": True}
    code, body = post(f"http://{said['http']}/v2/models/{MODEL}/generate_stream", asked)
    assert code == 200
    return str(events(body)[-1]["finish_reason"])


def over_grpc(said: dict[str, Any]) -> str:
    found: list[Any] = []
    with tritonclient.grpc.InferenceServerClient(said["grpc"]) as client:
        client.start_stream(callback=lambda result, error: found.append(error or result))
        values = {"text_input": b"Every function", "max_tokens": TOKENS}
        client.async_stream_infer(MODEL, infer_inputs(**values))
        client.stop_stream()
    return str(found[-1].as_numpy("finish_reason")[0, 0].decode())


def over_openai(said: dict[str, Any]) -> str:
    with openai.OpenAI(
        base_url=f"http://{said['openai']}/v1", api_key="none", max_retries=0, timeout=300
    ) as client:
        answer = client.completions.create(
            model=MODEL, prompt="Every function", max_tokens=TOKENS, temperature=0
        )
    return str(answer.choices[0].finish_reason)


def wait_until_running(said: dict[str, Any], count: int) -> None:
    while metric(get(f"http://{said['metrics']}/metrics"), "r1trt_requests_running") < count:
        pass


def require_refusals(said: dict[str, Any], retry_after: str) -> None:
    """What comes now is refused, and may be watched."""
    for address, path in ((said["http"], "/v2/health/ready"), (said["openai"], "/health")):
        while (found := status(address, path))[0] == 200:
            pass
        assert found == (503, retry_after), path
    asked = {"text_input": "Every", "max_tokens": 1}
    code, text = post(f"http://{said['http']}/v2/models/{MODEL}/generate", asked)
    assert code == 503 and "takes no more requests" in text
    code, text = post(
        f"http://{said['openai']}/v1/completions", {"model": MODEL, "prompt": "a", "max_tokens": 1}
    )
    assert code == 503 and json.loads(text)["error"]["code"] == "unavailable"
    with grpc.insecure_channel(said["grpc"]) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/inference.GRPCInferenceService/ServerReady")(b"", timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert status(said["http"], "/v2/health/live") == (200, None)
    assert status(said["metrics"], "/metrics")[0] == 200


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_what_runs_comes_to_its_end_and_nothing_else_is_taken(
    engine: Path, number: signal.Signals, code: int
) -> None:
    with serving(engine, "--drain-seconds", "300") as (process, said), ThreadPoolExecutor(3) as threads:
        running = [threads.submit(ask, said) for ask in (over_http, over_grpc, over_openai)]
        wait_until_running(said, len(running))
        process.send_signal(number)
        require_refusals(said, "300")
        assert not any(future.done() for future in running), "they were to run meanwhile"
        assert [future.result(300) for future in running] == ["length"] * len(running)
        assert process.wait(60) == code


@pytest.mark.usefixtures("environment")
def test_a_second_signal_ends_it_at_once(engine: Path) -> None:
    with serving(engine, "--drain-seconds", "300") as (process, said), ThreadPoolExecutor(1) as threads:
        running: Future[str] = threads.submit(over_http, said, ENDLESS)
        wait_until_running(said, 1)
        process.send_signal(signal.SIGTERM)
        while status(said["http"], "/v2/health/ready")[0] == 200:
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        assert running.exception(60) is not None, "its stream was cut"


@pytest.mark.usefixtures("environment")
def test_the_front_end_beside_a_server_drains_as_well(engine: Path) -> None:
    (port,) = free_ports(1)
    with serving(engine) as (_, said), ThreadPoolExecutor(1) as threads:
        command = [sys.executable, "-m", "r1trt.openai", "--grpc", said["grpc"], "--port", str(port)]
        with subprocess.Popen(
            [*command, "--drain-seconds", "300"], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None and process.stdout.readline()
            beside = {**said, "openai": f"127.0.0.1:{port}"}
            running = threads.submit(over_openai, beside)
            wait_until_running(said, 1)
            process.send_signal(signal.SIGTERM)
            while (found := status(beside["openai"], "/health"))[0] == 200:
                pass
            assert found == (503, "300") and not running.done()
            assert running.result(300) == "length"
            assert process.wait(60) == -signal.SIGTERM


def test_streams_are_followed() -> None:
    streams = OpenStreams()
    assert all(streams.from_client(HEADERS, stream) for stream in (1, 3, 5))
    streams.from_server(HEADERS, 0, 1)
    streams.from_server(DATA, 0, 1)
    assert streams.count == 3
    streams.from_server(HEADERS, END_STREAM, 1)
    streams.from_client(RST_STREAM, 3)
    assert streams.count == 1
    # The last stream, and no error.
    assert streams.finish()[9:] == (5).to_bytes(4, "big") + bytes(4)
    assert streams.from_client(DATA, 5) and streams.from_client(DATA, 0)
    assert not streams.from_client(HEADERS, 7) and streams.count == 1
