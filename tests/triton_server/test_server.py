"""The generation model in the real server, with SmolLM2 on this machine's CPU."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from server_client import MODEL, events, free_ports, get, metric, post, stream, stream_all
from serving.serving_cases import explain_difference, run_alone

from r1trt.door.listening import PortError
from r1trt.package.limits import GenerationLimits
from r1trt.package.repository import TritonConfig, repository_from_engine
from r1trt.serving.request import GenerationRequest
from r1trt.serving.session import serving_session
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir
from r1trt.triton_server.environment import ServingEnvironment
from r1trt.triton_server.process import is_ready
from r1trt.triton_server.serve import ServeConfig, ServedModels, served_models
from r1trt.triton_server.served_models import EngineToServe
from r1trt.triton_server.shared_memory import SHARED_MEMORY

pytestmark = pytest.mark.slow

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."


@dataclass(frozen=True)
class Served:
    """A running server and its addresses."""

    model: ServedModels

    @property
    def model_url(self) -> str:
        return f"http://{self.model.http}/v2/models/{MODEL}"

    def generate(self, **values: Any) -> tuple[int, dict[str, Any]]:
        status, body = post(f"{self.model_url}/generate", values)
        return status, json.loads(body)

    def generate_stream(self, **values: Any) -> list[dict[str, Any]]:
        _, body = post(f"{self.model_url}/generate_stream", {**values, "stream": True})
        return events(body)

    def metric(self, name: str) -> float:
        return metric(get(f"http://{self.model.metrics}/metrics"), name)


def serve_config(engine: Path, ports: list[int], **limits: Any) -> ServeConfig:
    http, grpc, metrics = ports
    return ServeConfig(
        engines=(EngineToServe(path=engine, name=MODEL),),
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        limits=GenerationLimits(threads=1, **limits),
    )


@pytest.fixture(scope="module")
def repository(smollm2_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = TritonConfig(
        engines=(smollm2_engine,),
        output=tmp_path_factory.mktemp("repository") / "models",
        model_name=MODEL,
        limits=GenerationLimits(threads=1),
    )
    return repository_from_engine(config)


@pytest.fixture(scope="module")
def served(repository: Path, environment: ServingEnvironment) -> Iterator[Served]:
    """What `r1trt triton` writes, in the server."""
    http, grpc, metrics = free_ports(3)
    config = ServeConfig(
        engines=(EngineToServe(path=repository),), http_port=http, grpc_port=grpc, metrics_port=metrics
    )
    with served_models(config) as model:
        yield Served(model)


@pytest.fixture(scope="module")
def tokenizer(smollm2_engine: Path) -> TextTokenizer:
    return tokenizer_from_dir(smollm2_engine)


def wait_until(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_server_and_model_are_ready_and_describe_themselves(served: Served) -> None:
    grpc = tritonclient.grpc.InferenceServerClient(served.model.grpc)
    assert grpc.is_server_ready() and grpc.is_model_ready(MODEL)
    assert get(f"{served.model_url}/ready") == ""
    metadata = json.loads(get(served.model_url))
    inputs = {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in metadata["inputs"]}
    assert inputs["text_input"] == ("BYTES", [-1, 1]) and inputs["max_tokens"] == ("INT32", [-1, 1])
    assert inputs["stop_words"] == ("BYTES", [-1, -1]) and inputs["seed"] == ("UINT64", [-1, 1])
    outputs = {tensor["name"]: tensor["datatype"] for tensor in metadata["outputs"]}
    assert outputs["text_output"] == "BYTES" and outputs["num_output_tokens"] == "UINT32"
    config = grpc.get_model_config(MODEL, as_json=True)["config"]
    assert config["model_transaction_policy"]["decoupled"] is True


def test_generate_gives_one_answer(served: Served, tokenizer: TextTokenizer) -> None:
    status, answer = served.generate(text_input=QUESTION, chat=True, max_tokens=20)
    assert status == 200
    assert answer["text_output"] == ANSWER and answer["finish_reason"] == "eos"
    prompt = tokenizer.encode_chat([{"role": "user", "content": QUESTION}])
    assert answer["num_input_tokens"] == len(prompt)
    assert answer["num_output_tokens"] == len(tokenizer.encode(ANSWER)) + 1


def test_a_prompt_is_read_once(served: Served, tokenizer: TextTokenizer) -> None:
    text = "Once upon a time there was a lighthouse keeper who"
    (_, first), (_, again) = (served.generate(text_input=text, max_tokens=3) for _ in range(2))
    prompt = len(tokenizer.encode(text))
    assert again["num_cached_tokens"] == prompt - 2 and first["text_output"] == again["text_output"]
    wait_until(lambda: served.metric("r1trt_prompt_tokens_reused") >= prompt - 2)


def test_generate_stream_gives_the_same_in_pieces(served: Served) -> None:
    messages = served.generate_stream(text_input=QUESTION, chat=True, max_tokens=20)
    assert len(messages) > 5
    assert "".join(message["text_output"] for message in messages) == ANSWER
    assert [message["finish_reason"] for message in messages] == [""] * (len(messages) - 1) + ["eos"]
    _, whole = served.generate(text_input=QUESTION, chat=True, max_tokens=20)
    assert sum(message["num_output_tokens"] for message in messages) == whole["num_output_tokens"]


def test_grpc_stream(served: Served) -> None:
    values = {"text_input": QUESTION.encode(), "chat": True, "stream": True, "max_tokens": 20}
    answer = asyncio.run(stream(served.model.grpc, values))
    assert answer.text == ANSWER and len(answer.pieces) > 5 and answer.finish_reason == "eos"


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "client_http.py", QUESTION, "--url", "http://{http}"],
        [sys.executable, "client_grpc.py", QUESTION, "--url", "{grpc}"],
        ["sh", "client_curl.sh", "http://{http}"],
    ],
    ids=["http", "grpc", "curl"],
)
def test_the_repositorys_client_programs_run(served: Served, repository: Path, command: list[str]) -> None:
    arguments = [part.format(http=served.model.http, grpc=served.model.grpc) for part in command]
    result = subprocess.run(
        arguments, cwd=repository, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    assert ANSWER in result.stdout
    if "client_http.py" in command:
        assert result.stdout.count(ANSWER) == 2, "one answer, and the same piece by piece"


def test_chat_messages_and_raw_text(served: Served) -> None:
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": QUESTION},
    ]
    _, chat = served.generate(messages=json.dumps(messages), max_tokens=20)
    assert "Paris" in chat["text_output"]
    _, raw = served.generate(text_input="The capital of France is", max_tokens=3)
    assert raw["text_output"].startswith(" Paris") and raw["finish_reason"] == "length"


def test_stop_words_end_the_text_also_across_tokens(served: Served) -> None:
    for stop in ("France", "l of Fr", "Paris."):
        _, answer = served.generate(text_input=QUESTION, chat=True, max_tokens=20, stop_words=["zzz", stop])
        assert answer["text_output"] == ANSWER[: ANSWER.index(stop)], stop
        assert answer["finish_reason"] == "stop"


def test_seeds_decide_sampled_text(served: Served) -> None:
    def ask(seed: int) -> dict[str, Any]:
        text = b"Once upon a time"
        return {"text_input": text, "max_tokens": 16, "temperature": 1.0, "seed": seed, "stream": True}

    (alone,) = stream_all(served.model.grpc, [ask(3)])
    together = stream_all(served.model.grpc, [ask(3), ask(4), ask(5), ask(3)])
    assert together[0].text == together[3].text == alone.text
    assert len({answer.text for answer in together}) == 3


BAD_REQUESTS: list[tuple[str, object, str]] = [
    ("too long", {"text_input": "word " * 600}, "too long"),
    ("too many tokens asked for", {"text_input": "a", "max_tokens": 5000}, "too long"),
    ("empty", {"text_input": ""}, "prompt is empty"),
    ("nothing", {"max_tokens": 3}, "give text_input or messages"),
    ("wrong type of text", {"text_input": 7}, "text_input is of the wrong type: 7, where a text"),
    ("wrong type of number", {"text_input": "a", "max_tokens": "three"}, "max_tokens is of the wrong type"),
    ("unknown parameter", {"text_input": "a", "max_new_tokens": 3}, "does not know"),
    ("negative budget", {"text_input": "a", "max_tokens": -2}, "max_tokens is too small"),
    ("negative temperature", {"text_input": "a", "temperature": -0.5}, "temperature is out of range"),
    ("negative seed", {"text_input": "a", "seed": -1}, "seed is out of range"),
    ("two prompts", {"text_input": ["a", "b"]}, "text_input takes one value, and 2 are given"),
    ("no conversation", {"messages": "{}"}, "messages is not a conversation"),
    ("no JSON", b"{", "not JSON"),
    ("stream of one answer", {"text_input": "a", "max_tokens": 3, "stream": True}, "ask generate_stream"),
]  # fmt: skip


def test_bad_requests_are_answered_with_an_error_while_others_go_on(served: Served) -> None:
    async def run() -> tuple[str, list[tuple[str, str]]]:
        values = {"text_input": QUESTION.encode(), "chat": True, "stream": True, "max_tokens": 20}
        good = asyncio.create_task(stream(served.model.grpc, values))
        answers = []
        for name, content, _ in BAD_REQUESTS:
            status, body = await asyncio.to_thread(post, f"{served.model_url}/generate", content)
            assert status == 400, f"{name}: {status}"
            answers.append((name, str(json.loads(body)["error"])))
        return (await good).text, answers

    text, answers = asyncio.run(run())
    assert text == ANSWER
    for (name, _, expected), (_, error) in zip(BAD_REQUESTS, answers, strict=True):
        assert expected in error, f"{name}: {error}"


def test_a_tensor_of_the_wrong_type_over_grpc_is_refused(served: Served) -> None:
    client = tritonclient.grpc.InferenceServerClient(served.model.grpc)
    wrong = tritonclient.grpc.InferInput("text_input", [1, 1], "INT32")
    wrong.set_data_from_numpy(np.zeros((1, 1), np.int32))
    found: list[str] = []
    client.start_stream(callback=lambda result, error: found.append(str(error)))
    client.async_stream_infer(MODEL, [wrong])
    wait_until(lambda: bool(found))
    client.stop_stream()
    assert "data-type is 'INT32'" in found[0]


def test_cancelling_a_stream_frees_its_row(served: Served) -> None:
    before = served.metric("r1trt_requests_cancelled")
    values = {"text_input": b"Count to a thousand:", "stream": True, "max_tokens": 400}
    answer = asyncio.run(stream(served.model.grpc, values, stop_after=3))
    assert len(answer.pieces) == 3
    wait_until(lambda: served.metric("r1trt_requests_cancelled") == before + 1)
    wait_until(lambda: served.metric("r1trt_cache_use") == 0)


KILLED_CLIENT = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1])
connection.request("POST", sys.argv[2], sys.argv[3])
connection.getresponse().read()
"""


def test_a_client_that_is_killed_frees_its_row(served: Served) -> None:
    before = served.metric("r1trt_requests_cancelled")
    values = {"text_input": "Count to a thousand:", "max_tokens": 400, "stream": True}
    path = f"/v2/models/{MODEL}/generate_stream"
    command = [sys.executable, "-c", KILLED_CLIENT, served.model.http, path, json.dumps(values)]
    with subprocess.Popen(command) as client:
        wait_until(lambda: served.metric("r1trt_requests_running") == 1)
        client.kill()
    wait_until(lambda: served.metric("r1trt_requests_cancelled") == before + 1)
    wait_until(lambda: served.metric("r1trt_requests_running") == 0)


def test_64_requests_at_once_answer_as_each_alone(
    served: Served, smollm2_engine: Path, tokenizer: TextTokenizer
) -> None:
    generator = np.random.default_rng(0)
    words = tokenizer.decode(range(5000, 5040)).split()
    prompts = [" ".join(generator.choice(words, int(generator.integers(1, 60)))) for _ in range(64)]
    lengths = [int(length) for length in generator.integers(2, 16, 64)]
    answers = stream_all(
        served.model.grpc,
        [
            {"text_input": prompt.encode(), "max_tokens": length, "stream": True}
            for prompt, length in zip(prompts, lengths, strict=True)
        ],
    )
    rows = serving_session(smollm2_engine, 1, threads=1)
    differences = []
    for prompt, length, answer in zip(prompts, lengths, answers, strict=True):
        assert not answer.error and answer.finish_reason
        request = GenerationRequest(prompt_ids=tuple(tokenizer.encode(prompt)), max_new_tokens=length)
        alone = run_alone(rows, tokenizer, request)
        if difference := explain_difference(tokenizer, answer.text, alone):
            differences.append(f"{prompt[:40]!r}: {difference}")
    rows.close()
    assert not differences, "\n".join(differences)
    assert served.metric("r1trt_time_to_first_token_seconds_count") >= 64
    assert served.metric("r1trt_cache_use") == 0


@pytest.mark.usefixtures("environment")
def test_a_full_queue_is_answered_with_an_error(tiny_engine: Path) -> None:
    with served_models(serve_config(tiny_engine, free_ports(3), rows=1, max_queue=2)) as model:
        values = {"text_input": b"Every function", "stream": True, "max_tokens": 50}
        answers = stream_all(model.grpc, [values] * 24)
        url = f"http://{model.http}/v2/models/{model.name}/generate"
        asked = {"text_input": "Every function", "max_tokens": 50}
        with ThreadPoolExecutor(24) as threads:
            posted = list(threads.map(lambda _: post(url, asked), range(24)))
    assert {status for status, _ in posted} == {200, 503}
    assert all("queue is full" in text for status, text in posted if status == 503)
    errors = [answer.error for answer in answers if answer.error]
    assert errors and all("queue is full" in error for error in errors)
    assert len(errors) < len(answers)


def test_a_port_in_use_is_named(served: Served, tiny_engine: Path) -> None:
    taken = int(served.model.http.rpartition(":")[2])
    with (
        pytest.raises(PortError, match=f"Port {taken}"),
        served_models(serve_config(tiny_engine, [taken, *free_ports(2)])),
    ):
        pass
    gc.collect()  # Whatever the refused start left open is an error here, not in a later test.
    assert is_ready(taken)


def start_command(engine: Path, directory: Path) -> tuple[subprocess.Popen[str], dict[str, Any], int]:
    """Starts `r1trt serve`, which puts its files into `directory`; reads what it says once it is ready."""
    http, grpc, metrics = free_ports(3)
    ports = ["--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics)]
    command = [sys.executable, "-m", "r1trt", "serve", str(engine), *ports, "--json"]
    process = subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline()), http


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_command_starts_says_what_to_ask_and_stops(
    tiny_engine: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process, result, http = start_command(tiny_engine, tmp_path)
    with process:
        assert result["http"] == f"127.0.0.1:{http}" and is_ready(http)
        process.send_signal(number)
        assert process.wait(300) == code
    assert not is_ready(http)
    assert not list(tmp_path.glob("r1trt-*"))
    assert not list(SHARED_MEMORY.glob(f"r1trt_{os.getuid()}_{http}_*"))


@pytest.mark.usefixtures("environment")
def test_the_server_does_not_outlive_a_killed_command(tiny_engine: Path, tmp_path: Path) -> None:
    process, result, http = start_command(tiny_engine, tmp_path)
    with process:
        process.kill()
        wait_until(lambda: not Path(f"/proc/{result['pid']}").exists())
    assert not is_ready(http)


def test_a_pinned_prompt_is_in_the_cache_from_the_start(
    smollm2_engine: Path, environment: ServingEnvironment, tokenizer: TextTokenizer
) -> None:
    text = "You answer in one short sentence, and never say more than you were asked."
    messages = [{"role": "system", "content": text}, {"role": "user", "content": QUESTION}]
    config = serve_config(smollm2_engine, free_ports(3), rows=2, pinned_prompt=text)
    with served_models(config) as model:
        _, answer = Served(model).generate(messages=json.dumps(messages), max_tokens=8)
    least = len(tokenizer.encode(text))
    assert least <= answer["num_cached_tokens"] < answer["num_input_tokens"] - 4
