"""Several engines behind one server and one front door, and one repository of several models."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from cpu_engines import cpu_engine
from server_client import free_ports, get, post
from tiny_checkpoints import write_llama

from r1trt.lifetime.children import arguments_of, children_of, name_of
from r1trt.package.repository import TritonConfig, repository_from_engine
from r1trt.triton_server.process import is_ready
from r1trt.triton_server.serve import ServeConfig, ServedModels, served_models
from r1trt.triton_server.served_models import EngineToServe

pytestmark = pytest.mark.usefixtures("environment")
NAMES = ("small", "large")
# Of the two models, a cache of so many tokens: prompts of the large one are longer than the least limit.
LARGE_CAPACITY = 8192


@pytest.fixture(scope="module")
def large_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("large")
    checkpoint = write_llama(
        directory / "checkpoint", tokenizer=True, seed=5, max_position_embeddings=LARGE_CAPACITY
    )
    return cpu_engine(checkpoint, directory, max_seq_len=LARGE_CAPACITY, rows=2)


@pytest.fixture(scope="module")
def served(tiny_engine: Path, large_engine: Path) -> Iterator[ServedModels]:
    ports = free_ports(4)
    config = ServeConfig(
        engines=tuple(
            EngineToServe(path=path, name=name)
            for name, path in zip(NAMES, (tiny_engine, large_engine), strict=True)
        ),
        http_port=ports[0],
        grpc_port=ports[1],
        metrics_port=ports[2],
        openai_port=ports[3],
    )
    with served_models(config) as models:
        yield models


@pytest.fixture
def client(served: ServedModels) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"http://{served.openai}/v1", api_key="none", max_retries=0, timeout=300
    ) as client:
        yield client


def texts(served: ServedModels) -> dict[str, Any]:
    asked = {"text_input": "Every function", "max_tokens": 8}
    url = f"http://{served.http}/v2/models"
    return {name: json.loads(post(f"{url}/{name}/generate", asked)[1])["text_output"] for name in NAMES}


def test_each_answers_with_its_own_text(served: ServedModels, client: openai.OpenAI) -> None:
    found = texts(served)
    assert found["small"] != found["large"]
    for name in NAMES:
        answer = client.completions.create(model=name, prompt="Every function", max_tokens=8, temperature=0)
        assert answer.choices[0].text == found[name] and answer.model == name
    metrics = get(f"http://{served.metrics}/metrics")
    assert all(f'r1trt_requests_finished{{model="{name}"' in metrics for name in NAMES)


def test_they_are_listed_and_others_are_not_there(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == list(NAMES)
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="medium", prompt="a")
    assert caught.value.code == "model_not_found" and "there is small, large" in str(caught.value)


def test_each_has_the_cores_shared_out(served: ServedModels) -> None:
    url = f"http://{served.http}/v2/models"
    threads = {
        json.loads(get(f"{url}/{name}/config"))["parameters"]["threads"]["string_value"] for name in NAMES
    }
    assert threads == {str(max(len(os.sched_getaffinity(0)) // 2, 1))}


def test_a_long_body_passes_to_the_model_that_has_room(served: ServedModels) -> None:
    """Both refuse the prompt: the one for its body, the other for its tokens."""
    asked = {"text_input": "x" * (1 << 20), "max_tokens": 1}
    url = f"http://{served.http}/v2/models"
    assert [post(f"{url}/{name}/generate", asked)[0] for name in NAMES] == [413, 400]
    asked = {"prompt": "x" * (1 << 20), "max_tokens": 1}
    statuses = [post(f"http://{served.openai}/v1/completions", {**asked, "model": name})[0] for name in NAMES]
    assert statuses == [413, 400]


class DoneError(Exception):
    """What was waited for has happened."""


def test_readiness_says_which_model_is_down(served: ServedModels) -> None:
    host, said = str(served.openai), set[str]()
    (process,) = (
        pid
        for pid in children_of(served.server.pid)
        if name_of(pid).startswith("triton_python") and any("/large/1" in part for part in arguments_of(pid))
    )
    os.kill(process, signal.SIGKILL)
    server, done = served.server.pid, threading.Event()

    def ask() -> None:
        while not done.is_set():
            said.add(health(host))
            time.sleep(0.05)

    def poll() -> None:
        if served.server.pid != server and is_ready(int(served.http.rpartition(":")[2])):
            raise DoneError

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(DoneError):
        served.server.wait(poll)
    done.set()
    asking.join()
    assert any("The process of large ended" in text for text in said), said
    assert texts(served)


def health(address: str) -> str:
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def repository(tiny_engine: Path, large_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("repository") / "models"
    for name, engine in zip(NAMES, (tiny_engine, large_engine), strict=True):
        repository_from_engine(TritonConfig(engines=(engine,), output=output, model_name=name))
    return output


def test_a_repository_of_two_and_the_front_end_that_asks_the_server_for_its_models(
    repository: Path, large_engine: Path
) -> None:
    ports = free_ports(4)
    config = ServeConfig(
        engines=(EngineToServe(path=repository), EngineToServe(path=repository.parent / "third")),
        http_port=ports[0],
        grpc_port=ports[1],
        metrics_port=ports[2],
    )
    third = TritonConfig(engines=(large_engine,), output=repository.parent / "third", model_name="third")
    repository_from_engine(third)
    command = [
        sys.executable,
        "-m",
        "r1trt.openai",
        "--grpc",
        f"127.0.0.1:{ports[1]}",
        "--port",
        str(ports[3]),
    ]
    code = repository / "large" / "1" / "python"
    with (
        served_models(config) as served,
        subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(code)}, cwd=code, stdout=subprocess.PIPE, text=True
        ) as process,
        openai.OpenAI(base_url=f"http://127.0.0.1:{ports[3]}/v1", api_key="none", timeout=300) as client,
    ):
        assert [model.name for model in served.models] == ["large", "small", "third"]
        assert process.stdout is not None
        assert process.stdout.readline() == f"all models: http://127.0.0.1:{ports[3]}/v1\n"
        assert [model.id for model in client.models.list()] == ["large", "small", "third"]
        answer = client.completions.create(model="third", prompt="Every function", max_tokens=3)
        assert answer.usage is not None and answer.usage.completion_tokens
        with pytest.raises(openai.NotFoundError, match="there is large, small, third"):
            client.completions.create(model="medium", prompt="a")
        assert json.loads(health(f"127.0.0.1:{ports[3]}")) == {"status": "ok"}
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
