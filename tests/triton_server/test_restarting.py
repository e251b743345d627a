"""A server whose processes are killed: requests get an error at once, and it comes back."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from server_client import free_ports, post

from r1trt.cache import cache_directory
from r1trt.lifetime.children import children_of, name_of
from r1trt.triton_server import restarting
from r1trt.triton_server.process import ServerError, is_ready
from r1trt.triton_server.serve import ServeConfig, ServedModels, served_models
from r1trt.triton_server.served_models import EngineToServe
from r1trt.triton_server.shared_memory import SHARED_MEMORY

pytestmark = pytest.mark.usefixtures("environment")
LONG = {"text_input": "Every function", "max_tokens": 50}


class DoneError(Exception):
    """What was waited for has happened."""


def model_process(server: int) -> int:
    (pid,) = (pid for pid in children_of(server) if name_of(pid).startswith("triton_python"))
    return pid


def until_ready_again(model: ServedModels, port: int) -> None:
    """Watches the server until it has been down and is ready."""
    first = model.server.pid

    def poll() -> None:
        if model.server.pid != first and is_ready(port):
            raise DoneError

    with pytest.raises(DoneError):
        model.server.wait(poll)


@pytest.fixture
def config(tiny_engine: Path) -> ServeConfig:
    http, grpc, metrics = free_ports(3)
    return ServeConfig(
        engines=(EngineToServe(path=tiny_engine),), http_port=http, grpc_port=grpc, metrics_port=metrics
    )


@pytest.mark.parametrize("killed", ["server", "model"])
def test_it_comes_back(config: ServeConfig, killed: str) -> None:
    port = config.http_port
    ours = f"r1trt_{os.getuid()}_{port}_*"
    with served_models(config) as model:
        url = f"http://{model.http}/v2/models/{model.name}/generate"
        assert post(url, {"text_input": "Every", "max_tokens": 2})[0] == 200
        answers: list[tuple[int, str, float]] = []
        frozen = model_process(model.server.pid)
        # It cannot answer before it is killed.
        os.kill(frozen, signal.SIGSTOP)
        asking = threading.Thread(target=_ask, args=(url, answers))
        asking.start()
        time.sleep(0.5)
        died = time.monotonic()
        os.kill(frozen if killed == "model" else model.server.pid, signal.SIGKILL)
        until_ready_again(model, port)
        asking.join()
        ((status, text, moment),) = answers
        assert status == 503 and "ask again" in text and moment - died < 2
        assert post(url, {"text_input": "Every", "max_tokens": 2})[0] == 200
    assert not list(SHARED_MEMORY.glob(ours))


def _ask(url: str, answers: list[tuple[int, str, float]]) -> None:
    answers.append((*post(url, LONG), time.monotonic()))


def test_an_ordinary_stop_crashes_nothing(config: ServeConfig) -> None:
    with served_models(config) as model:
        server = model.server._server
        post(f"http://{model.http}/v2/models/{model.name}/generate", {"text_input": "Every", "max_tokens": 2})
        server.stop()
        log = server._config.log.read_text(errors="replace")
    assert "successfully unloaded" in log
    assert "Fatal Python error" not in log and "Segmentation fault" not in log


def test_what_dies_again_and_again_ends_the_command(
    config: ServeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarting, "RESTARTS", 1)
    with pytest.raises(ServerError, match="time 2 in") as caught, served_models(config) as model:
        model.server.wait(_killing(model))
    assert not is_ready(config.http_port)
    # What the message names is there: the server's own folder is gone.
    log = Path(caught.value.details["where"])
    assert log.parent == cache_directory() and "loading: " in log.read_text()


def _killing(model: ServedModels) -> Callable[[], None]:
    killed: set[int] = set()

    def poll() -> None:
        if model.server.pid not in killed:
            killed.add(model.server.pid)
            os.kill(model.server.pid, signal.SIGKILL)
            time.sleep(0.2)

    return poll
