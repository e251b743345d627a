"""What the tests ask a running server, over HTTP and gRPC."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc.aio as aio

MODEL = "smollm2"
TYPES = {
    "text_input": ("BYTES", np.object_),
    "messages": ("BYTES", np.object_),
    "stop_words": ("BYTES", np.object_),
    "chat": ("BOOL", np.bool_),
    "stream": ("BOOL", np.bool_),
    "max_tokens": ("INT32", np.int32),
    "seed": ("UINT64", np.uint64),
    "temperature": ("FP32", np.float32),
}


# Below the ports that the kernel gives to outgoing connections, any of which may take a port that was free.
PORTS = range(20000, 32000)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports += [port] if port not in ports else []
    return ports


def post(url: str, content: object, *, timeout: float = 300) -> tuple[int, str]:
    """Status and body of the answer to JSON, or to bytes as they are."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def get(url: str) -> str:
    """Body of an answer."""
    with urllib.request.urlopen(url, timeout=120) as answer:
        body: bytes = answer.read()
    return body.decode()


def events(body: str) -> list[dict[str, Any]]:
    """Messages of a server-sent event stream."""
    return [
        json.loads(line.removeprefix("data: ")) for line in body.splitlines() if line.startswith("data: ")
    ]


def infer_inputs(**values: Any) -> list[aio.InferInput]:
    """Tensors of a gRPC request."""
    inputs = []
    for name, value in values.items():
        datatype, dtype = TYPES[name]
        array = np.array([value if isinstance(value, list) else [value]], dtype)
        inputs.append(aio.InferInput(name, array.shape, datatype))
        inputs[-1].set_data_from_numpy(array)
    return inputs


@dataclass
class Streamed:
    """One streamed answer."""

    pieces: list[str]
    finish_reason: str = ""
    new_tokens: int = 0
    error: str = ""

    @property
    def text(self) -> str:
        return "".join(self.pieces)


async def stream(url: str, values: dict[str, Any], stop_after: int | None = None) -> Streamed:
    """Asks over a stream; with `stop_after` goes away after so many pieces."""
    answer = Streamed([])

    async def call() -> Any:
        yield {"model_name": MODEL, "inputs": infer_inputs(**values)}

    async with aio.InferenceServerClient(url) as client:
        responses = client.stream_infer(call())
        async for result, error in responses:
            if error is not None:
                answer.error = str(error)
                break
            answer.pieces.append(result.as_numpy("text_output")[0, 0].decode())
            answer.finish_reason = result.as_numpy("finish_reason")[0, 0].decode()
            answer.new_tokens += int(result.as_numpy("num_output_tokens")[0, 0])
            if stop_after is not None and len(answer.pieces) >= stop_after:
                responses.cancel()
                break
    return answer


def stream_all(url: str, requests: Sequence[dict[str, Any]]) -> list[Streamed]:
    """Asks all of them at once."""

    async def run() -> list[Streamed]:
        return list(await asyncio.gather(*(stream(url, values) for values in requests)))

    return asyncio.run(run())


def metric(text: str, name: str) -> float:
    """A number of the metrics page."""
    line = next(line for line in text.splitlines() if line.startswith(f"{name}{{"))
    return float(line.rsplit(" ", 1)[1])
