"""OpenAI's clients against the front end of a real server, with SmolLM2 on this machine's CPU."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import tritonclient.grpc
from server_client import MODEL, free_ports, get, metric
from serving.serving_cases import explain_difference, run_alone

from r1trt.machine import allow_descriptors
from r1trt.package.repository import TritonConfig, repository_from_engine
from r1trt.runtime.logprobs import log_softmax
from r1trt.runtime.session import Session
from r1trt.serving.request import GenerationRequest
from r1trt.serving.session import serving_session
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir
from r1trt.triton_server.environment import ServingEnvironment

pytestmark = pytest.mark.slow

KEY = "sk-0123456789abcdef"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
ENDLESS: dict[str, Any] = {"model": MODEL, "prompt": "Count to a thousand:", "max_tokens": 400}


@dataclass(frozen=True)
class Served:
    """A command that serves."""

    process: subprocess.Popen[str]
    grpc: str
    metrics: str
    openai: str

    @property
    def url(self) -> str:
        return f"http://{self.openai}/v1"

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.openai.rpartition(":")
        return host, int(port)

    def client(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=300)

    def metric(self, name: str) -> float:
        return metric(get(f"http://{self.metrics}/metrics"), name)


@pytest.fixture(scope="module")
def served(
    smollm2_engine: Path, environment: ServingEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n")
    ports = [str(port) for port in free_ports(4)]
    command = [sys.executable, "-m", "r1trt", "serve", str(smollm2_engine), "--model-name", MODEL]
    command += ["--http-port", ports[0], "--grpc-port", ports[1], "--metrics-port", ports[2]]
    command += ["--openai-port", ports[3], "--api-key-file", str(keys), "--threads", "1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        yield Served(process, said["grpc"], said["metrics"], said["openai"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with served.client() as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer(smollm2_engine: Path) -> TextTokenizer:
    return tokenizer_from_dir(smollm2_engine)


@pytest.fixture
def alone(smollm2_engine: Path) -> Iterator[Session]:
    session = serving_session(smollm2_engine, 1, threads=1)
    yield session
    session.close()


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_chat(client: openai.OpenAI, tokenizer: TextTokenizer) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION)
    (choice,) = answer.choices
    assert choice.message.content == ANSWER and choice.message.role == "assistant"
    assert choice.finish_reason == "stop" and answer.model == MODEL
    prompt = len(tokenizer.encode_chat(QUESTION))
    assert answer.usage is not None and answer.usage.prompt_tokens == prompt
    assert answer.usage.completion_tokens == len(tokenizer.encode(ANSWER)) + 1
    assert answer.usage.total_tokens == prompt + answer.usage.completion_tokens
    assert [model.id for model in client.models.list()] == [MODEL]


def test_a_stream_is_the_same_in_pieces(client: openai.OpenAI) -> None:
    options = {"include_usage": True}
    with client.chat.completions.create(
        model=MODEL, messages=QUESTION, stream=True, stream_options=options
    ) as stream:
        chunks = list(stream)
    *pieces, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == ANSWER
    assert len(pieces) > 5 and pieces[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    assert not last.choices and last.usage is not None
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION)
    assert whole.usage is not None and whole.usage.prompt_tokens_details is not None
    assert whole.usage.prompt_tokens_details.cached_tokens == whole.usage.prompt_tokens - 2
    assert last.usage.total_tokens == whole.usage.total_tokens and len({chunk.id for chunk in chunks}) == 1


def test_texts_end_where_they_are_told_to(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(model=MODEL, messages=QUESTION, stop=["zzz", "l of Fr"])
    assert chat.choices[0].message.content == "The capita" and chat.choices[0].finish_reason == "stop"
    short = client.chat.completions.create(model=MODEL, messages=QUESTION, max_completion_tokens=2)
    assert short.choices[0].finish_reason == "length" and short.usage is not None
    assert short.usage.completion_tokens == 2


def test_seeds_decide_sampled_texts(client: openai.OpenAI) -> None:
    def ask(**values: Any) -> list[str]:
        answer = client.completions.create(
            model=MODEL, prompt="Once upon a time", max_tokens=8, temperature=1, **values
        )
        return [choice.text for choice in sorted(answer.choices, key=lambda choice: choice.index)]

    three = ask(seed=5, n=3)
    assert len(set(three)) == 3 and ask(seed=6, n=2) == three[1:]
    assert ask() != ask(), "drawn anew where no seed is given"


def logprobs_alone(session: Session, ids: list[int]) -> list[float]:
    """By the definition: each token from the logits behind those before it, one call a token."""
    session.reset(1)
    found = []
    for past, token in enumerate(ids[:-1]):
        logits_BSV = session.step(np.array([[token]]), np.array([1]), np.array([past]))
        found.append(float(log_softmax(logits_BSV[0, -1])[ids[past + 1]]))
    return found


def test_prompts_are_scored(client: openai.OpenAI, tokenizer: TextTokenizer, alone: Session) -> None:
    """As evaluation harnesses ask: a batch of tokens, echoed, with one token more."""
    texts = ["The capital of France is Paris.", "Colourless green ideas sleep furiously \N{LLAMA}"]
    prompts = [tokenizer.encode(text) for text in texts]
    answer = client.completions.create(
        model=MODEL, prompt=prompts, max_tokens=1, echo=True, logprobs=1, temperature=0, seed=1
    )
    for choice, ids, text in zip(answer.choices, prompts, texts, strict=True):
        found = choice.logprobs
        assert found is not None and choice.text.startswith(text)
        assert found.token_logprobs is not None and found.top_logprobs is not None
        assert found.token_logprobs[0] is None
        assert found.token_logprobs[1 : len(ids)] == pytest.approx(logprobs_alone(alone, ids), abs=1e-3)
        assert all(len(top) == 1 for top in found.top_logprobs[1:])
        assert found.token_logprobs[-1] == max(found.top_logprobs[-1].values()), "the most likely token"
    only = client.completions.create(model=MODEL, prompt=texts[0], max_tokens=0, echo=True, logprobs=0)
    assert only.choices[0].text == texts[0] and only.choices[0].logprobs is not None
    assert only.choices[0].logprobs.tokens == [tokenizer.decode([token]) for token in prompts[0]]


def test_log_probabilities_of_a_chat(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model=MODEL, messages=QUESTION, logprobs=True, top_logprobs=3, stream=True
    ) as stream:
        entries = [entry for chunk in stream for entry in (chunk.choices[0].logprobs.content or [])]
    assert b"".join(bytes(entry.bytes or []) for entry in entries).decode().startswith(ANSWER)
    for entry in entries:
        assert entry.top_logprobs[0].logprob == entry.logprob <= 0, "greedy"
        assert len(entry.top_logprobs) == 3


def test_errors_are_those_of_the_package(served: Served, client: openai.OpenAI) -> None:
    def refused(**values: Any) -> openai.BadRequestError:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**{"model": MODEL, "messages": QUESTION, **values})
        return caught.value

    assert refused(max_tokens=5000).code == "context_length_exceeded"
    assert refused(temperature=3).param == "temperature"
    assert "no conversation" in refused(messages=[{"role": "user"}]).message.replace("not a", "no")
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    assert "takes no tools" in refused(tools=tools).message
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="other", messages=QUESTION)
    with served.client("sk-wrong") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_64_at_a_time_answer_as_each_alone(served: Served, tokenizer: TextTokenizer, alone: Session) -> None:
    generator = np.random.default_rng(1)
    words = tokenizer.decode(range(5000, 5040)).split()
    prompts = [" ".join(generator.choice(words, 4)) for _ in range(64)]

    async def run() -> list[str]:
        async with openai.AsyncOpenAI(base_url=served.url, api_key=KEY, timeout=300) as client:
            asked = (client.completions.create(model=MODEL, prompt=text, max_tokens=4) for text in prompts)
            return [answer.choices[0].text for answer in await asyncio.gather(*asked)]

    texts = asyncio.run(run())
    assert len(texts) == 64 and all(texts)
    for prompt, text in zip(prompts[::8], texts[::8], strict=True):
        request = GenerationRequest(prompt_ids=tuple(tokenizer.encode(prompt)), max_new_tokens=4)
        assert explain_difference(tokenizer, text, run_alone(alone, tokenizer, request)) is None, prompt


def test_curl(served: Served) -> None:
    curl = shutil.which("curl")
    assert curl is not None, "apt install curl"
    body = json.dumps({"model": MODEL, "messages": QUESTION, "stream": True})
    command = [
        curl,
        "-sSN",
        f"{served.url}/chat/completions",
        "-d",
        body,
        "-H",
        f"Authorization: Bearer {KEY}",
    ]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == ANSWER
    health = [curl, "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{served.openai}/health"]
    assert subprocess.run(health, capture_output=True, text=True, check=True).stdout == "200"


@contextmanager
def connected(served: Served, body: bytes, length: int | None = None) -> Iterator[socket.socket]:
    """A connection that has asked for a completion; `length` may promise more than there is."""
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    with closing(socket.create_connection(served.address, timeout=120)) as connection:
        with suppress(ConnectionError):
            connection.sendall(f"{head}Content-Length: {length or len(body)}\r\n\r\n".encode() + body)
        yield connection


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("leave", ["close", "half"])
def test_a_client_that_leaves_frees_its_row(served: Served, stream: bool, leave: str) -> None:
    before = served.metric("r1trt_requests_cancelled")
    with connected(served, json.dumps({**ENDLESS, "stream": stream, "n": 2}).encode()) as connection:
        wait_until(lambda: served.metric("r1trt_requests_running") == 2)
        if leave == "half":
            connection.shutdown(socket.SHUT_WR)
            wait_until(lambda: served.metric("r1trt_requests_cancelled") == before + 2)
    wait_until(lambda: served.metric("r1trt_requests_cancelled") == before + 2)
    wait_until(lambda: served.metric("r1trt_cache_use") == 0)


def test_hostile_clients_delay_nobody(served: Served, client: openai.OpenAI) -> None:
    """While thousands of connections are open, bodies do not come to their end, and large ones are sent."""
    large = json.dumps({**ENDLESS, "prompt": "x" * (5 << 20)}).encode()
    with ThreadPoolExecutor(4) as threads, _open(served, 1500) as silent:
        for connection in silent[::3]:
            with suppress(ConnectionError):
                connection.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Le")
        with connected(served, b'{"prompt": "', 1000):
            sending = [threads.submit(_status, served, large) for _ in range(4)]
            sending += [threads.submit(_status, served, b'{"prompt": "\xff\xfe"}') for _ in range(4)]
            for _ in range(3):
                answer = client.chat.completions.create(model=MODEL, messages=QUESTION)
                assert answer.choices[0].message.content == ANSWER
            assert [future.result() for future in sending] == [413] * 4 + [400] * 4
    assert served.process.poll() is None


@contextmanager
def _open(served: Served, count: int) -> Iterator[list[socket.socket]]:
    allow_descriptors(2 * count)
    found: list[socket.socket] = []
    try:
        found += [socket.create_connection(served.address, timeout=120) for _ in range(count)]
        yield found
    finally:
        for connection in found:
            connection.close()


def _status(served: Served, body: bytes) -> int:
    with connected(served, body) as connection:
        return int(connection.recv(4096).split()[1])


def test_it_listens_on_the_loopback_interface_alone(served: Served) -> None:
    table = Path(f"/proc/{served.process.pid}/net/tcp").read_text()
    port = f"{served.address[1]:04X}"
    listening = [line.split()[1] for line in table.splitlines() if line.split()[3] == "0A"]
    assert [address for address in listening if address.endswith(f":{port}")] == [f"0100007F:{port}"]


def test_the_tensors_of_tritons_own_front_end(served: Served) -> None:
    """As its `_create_trtllm_generate_request` makes them of a chat: names, types and shapes."""
    values: dict[str, Any] = {
        "text_input": np.array([[b"The capital of France is"]], object),
        "stream": np.array([[False]]),
        "max_tokens": np.int32([[3]]),
        "stop_words": np.array([[b"zzz", b"yyy"]], object),
        "top_p": np.float32([[1.0]]),
        "frequency_penalty": np.float32([[0.0]]),
        "presence_penalty": np.float32([[0.0]]),
        "seed": np.uint64([[7]]),
        "temperature": np.float32([[0.0]]),
        "exclude_input_in_output": np.array([[False]]),
        "return_num_input_tokens": np.array([[True]]),
        "return_num_output_tokens": np.array([[True]]),
    }
    inputs = []
    for name, array in values.items():
        datatype = tritonclient.utils.np_to_triton_dtype(array.dtype)
        inputs.append(tritonclient.grpc.InferInput(name, array.shape, datatype))
        inputs[-1].set_data_from_numpy(array)
    found: list[Any] = []
    with tritonclient.grpc.InferenceServerClient(served.grpc) as triton:
        triton.start_stream(callback=lambda result, error: found.append(error or result))
        triton.async_stream_infer(MODEL, inputs)
        wait_until(lambda: bool(found))
        triton.stop_stream()
    (result,) = found
    assert result.as_numpy("text_output")[0, 0] == b"The capital of France is Paris.\n"
    assert (result.as_numpy("num_input_tokens"), result.as_numpy("num_output_tokens")) == (5, 3)


def test_the_front_end_of_a_repository_runs_beside_a_server(
    served: Served, tiny_engine: Path, tmp_path: Path
) -> None:
    """With the repository's own modules, and no r1trt besides."""
    config = TritonConfig(engines=(tiny_engine,), output=tmp_path / "repository", model_name=MODEL)
    code = repository_from_engine(config) / MODEL / "1" / "python"
    (port,) = free_ports(1)
    command = [
        sys.executable,
        "-m",
        "r1trt.openai",
        "--model",
        MODEL,
        "--grpc",
        served.grpc,
        "--port",
        str(port),
    ]
    environment = {**os.environ, "PYTHONPATH": str(code)}
    with subprocess.Popen(command, env=environment, cwd=code, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{MODEL}: http://127.0.0.1:{port}/v1\n"
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=300) as client:
            answer = client.chat.completions.create(model=MODEL, messages=QUESTION)
            assert answer.choices[0].message.content == ANSWER
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
