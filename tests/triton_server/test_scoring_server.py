"""The stateless `tensorrt_plan` model in the real server, with a stand-in for the TensorRT backend."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import tritonclient.grpc as triton
from cpu_engines import cpu_engine
from server_client import free_ports, get
from small_engine import TENSORRT
from tiny_checkpoints import write_llama

from r1trt.artifacts.manifest import read_manifest, write_manifest
from r1trt.door.limits import DoorLimits
from r1trt.package.repository import TritonConfig, repository_from_engine
from r1trt.triton_server.config import HOST, ServerConfig
from r1trt.triton_server.environment import ServingEnvironment
from r1trt.triton_server.restarting import RestartingServer

pytestmark = pytest.mark.slow

MODEL = "tiny"
STAND_IN = Path(__file__).parent / "stand_in_backend" / "model.py"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository for a scoring build that says to be TensorRT's, its engine's file being an ONNX graph."""
    directory = tmp_path_factory.mktemp("scoring")
    checkpoint = write_llama(directory / "checkpoint", tokenizer=True, seed=4)
    engine = cpu_engine(checkpoint, directory, max_seq_len=64, rows=4, cache=False)
    for name in ("engine.sm90.plan", "typed.onnx"):
        onnx.save(onnx.load(engine / "cpu.onnx"), engine / name)
    write_manifest(engine, {**read_manifest(engine), **TENSORRT, "precision": "fp32"})
    config = TritonConfig(
        engines=(engine,), output=directory / "models", model_name=MODEL, trt_version="11.4"
    )
    return repository_from_engine(config)


@pytest.fixture(scope="module")
def server(
    repository: Path, environment: ServingEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerConfig]:
    directory = tmp_path_factory.mktemp("server")
    backends = directory / "backends"
    shutil.copytree(environment.backends, backends)
    (backends / "tensorrt").mkdir()
    shutil.copy(STAND_IN, backends / "tensorrt" / "model.py")
    http, grpc, metrics = free_ports(3)
    config = ServerConfig(
        repository=repository,
        log=directory / "server.log",
        sockets=directory / "sockets",
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
    )
    config.sockets.mkdir()
    with RestartingServer(replace(environment, backends=backends), config, DoorLimits()):
        yield config


def ask(server: ServerConfig, ids: npt.NDArray[np.int64], lengths: list[int]) -> npt.NDArray[np.float32]:
    arrays = {"input_ids": ids, "seq_len": np.array(lengths, np.int64)[:, None]}
    inputs = []
    for name, array in arrays.items():
        inputs.append(triton.InferInput(name, array.shape, "INT64"))
        inputs[-1].set_data_from_numpy(array)
    with triton.InferenceServerClient(f"{HOST}:{server.grpc_port}") as client:
        logits: npt.NDArray[np.float32] = client.infer(MODEL, inputs).as_numpy("logits")
    return logits


def test_server_loads_it_as_tensorrts(server: ServerConfig) -> None:
    url = f"http://{HOST}:{server.http_port}/v2/models/{MODEL}"
    assert get(f"{url}/ready") == ""
    assert json.loads(get(url))["platform"] == "tensorrt_plan"
    config = json.loads(get(f"{url}/config"))
    assert config["default_model_filename"] == "engine.sm90.plan" and "dynamic_batching" in config


@pytest.mark.parametrize("rows", [1, 4])
def test_logits_are_those_of_the_graph(server: ServerConfig, repository: Path, rows: int) -> None:
    session = onnxruntime.InferenceSession(repository / MODEL / "1" / "engine.sm90.plan")
    generator = np.random.default_rng(rows)
    ids, lengths = generator.integers(10, 300, (rows, 12)), [12, 5, 1, 8][:rows]
    expected = session.run(["logits"], {"input_ids": ids, "seq_len": np.array(lengths)})[0]
    found = ask(server, ids, lengths)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(found[row, :length], expected[row, :length], atol=TOLERANCE)


def test_prompts_of_different_lengths_at_the_same_time(server: ServerConfig, repository: Path) -> None:
    session = onnxruntime.InferenceSession(repository / MODEL / "1" / "engine.sm90.plan")
    prompts = [np.random.default_rng(length).integers(10, 300, (1, length)) for length in range(1, 25)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda ids: ask(server, ids, [ids.shape[1]]), prompts))
    for ids, found in zip(prompts, answers, strict=True):
        feed = {"input_ids": ids, "seq_len": np.array([ids.shape[1]])}
        np.testing.assert_allclose(found, session.run(["logits"], feed)[0], atol=TOLERANCE)


def test_more_rows_than_the_engine_takes_are_refused(server: ServerConfig) -> None:
    with pytest.raises(triton.InferenceServerException, match="batch-size must be <= 4"):
        ask(server, np.ones((5, 3), np.int64), [3] * 5)


def test_the_repositorys_client_program_runs(server: ServerConfig, repository: Path) -> None:
    command = [sys.executable, "client_scoring.py", "Every function", "--url", f"{HOST}:{server.grpc_port}"]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    scores = [float(line.split()[0]) for line in result.stdout.splitlines()]
    assert len(scores) == 5 and scores == sorted(scores, reverse=True)
