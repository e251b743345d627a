"""llama.cpp's server as a peer of ours, and a client.

The program of `llama_build.py` does continuous batching in C++; the Python package's own server answers one
request at a time, and would be a weaker peer.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from load_generator import Outcome, Request, Send

HOST = "127.0.0.1"
READY_TIMEOUT_S = 120.0


def llama_server_version(program: Path) -> str:
    """What the program says of itself: version, commit, compiler."""
    result = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True)
    lines = (result.stdout + result.stderr).splitlines()
    return "; ".join(line.strip() for line in lines if line.startswith(("version", "built")))


def server_arguments(*, rows: int, capacity: int, threads: int) -> tuple[str, ...]:
    """Arguments that make it comparable: as many sequences, of the same length, with no more threads.

    The cache of finished prompts is off, since every prompt of the benchmark is new. The KV cache stays at
    its default, FP16.
    """
    return (
        *("--parallel", str(rows)),
        *("--ctx-size", str(rows * capacity)),
        *("--threads", str(threads)),
        *("--threads-batch", str(threads)),
        *("--cache-ram", "0"),
    )


@contextmanager
def llama_server(
    program: Path, model: Path, arguments: Sequence[str], *, port: int, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts the server, waits until it answers, and stops it at the end.

    Raises:
        RuntimeError: It ended, or is not ready in time; the message names its log.
    """
    command = [str(program), "--model", str(model), "--host", HOST, "--port", str(port), *arguments]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not _is_healthy(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"llama-server did not start; see {log}")
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def llama_sender(port: int, prompt_ids: dict[str, list[int]]) -> Send:
    """Returns a client that sends a prompt's token ids, so that both servers read the very same tokens."""

    async def send(request: Request, started: float) -> Outcome:
        outcome = Outcome(sent_at=time.perf_counter() - started)
        body = {
            "prompt": prompt_ids[request.prompt],
            "n_predict": request.max_tokens,
            "stream": True,
            "temperature": request.temperature,
            "top_k": 1,
            "seed": request.seed,
            "cache_prompt": False,
        }
        async for event in _events(port, body):
            if "error" in event:
                outcome.error = str(event["error"])
                break
            outcome.token_times.append(time.perf_counter() - started)
            outcome.text += event["content"]
            if event["stop"]:
                outcome.prompt_tokens = event["tokens_evaluated"]
                outcome.new_tokens = event["tokens_predicted"]
        outcome.ended_at = time.perf_counter() - started
        return outcome

    return send


async def _events(port: int, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Yields the messages of a server-sent event stream."""
    content = json.dumps(body).encode()
    head = (
        f"POST /completion HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(head.encode() + content)
        status = (await reader.readline()).decode()
        if not re.match(r"HTTP/1\.1 200\b", status):
            yield {"error": status.strip()}
            return
        while (await reader.readline()).strip():
            pass
        text = b""
        while size := int((await reader.readline()).strip() or b"0", 16):
            text += await reader.readexactly(size)
            await reader.readline()
            *messages, text = text.split(b"\n\n")
            for message in messages:
                if message.startswith(b"data: "):
                    yield json.loads(message.removeprefix(b"data: "))
    finally:
        writer.close()
