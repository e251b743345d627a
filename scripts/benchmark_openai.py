"""What OpenAI's interface costs: the same load through it and over gRPC directly, in turn, on one server.

    python scripts/benchmark_openai.py engines/SmolLM2/cpu-fp32 -o results.json

Processor time is that of the front door's process: over gRPC it hands frames on, for OpenAI's clients it runs
the front end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from load_generator import Outcome, Request, Send, closed_load, requests_of_mix, summary, triton_sender
from machine import machine
from processes import OthersShare, processor_seconds

INTERFACES = ("grpc", "openai")
PORTS = range(20000, 32000)


async def send(address: tuple[str, int], model: str, request: Request, started: float) -> Outcome:
    """Sends one request to OpenAI's interface, on its own connection, and reads its stream to the end."""
    asked = {
        "model": model,
        "messages": [{"role": "user", "content": request.prompt}],
        "max_tokens": request.max_tokens,
        "seed": request.seed,
        "temperature": request.temperature,
    }
    return await send_chat(address, asked, started)


async def send_chat(address: tuple[str, int], asked: Mapping[str, Any], started: float) -> Outcome:
    """Asks for a chat completion as a stream, on a connection of its own, and reads it to the end."""
    outcome = Outcome(sent_at=time.perf_counter() - started)
    body = json.dumps({**asked, "stream": True, "stream_options": {"include_usage": True}})
    fields = f"Host: x\r\nConnection: close\r\nContent-Length: {len(body)}"
    head = f"POST /v1/chat/completions HTTP/1.1\r\n{fields}\r\n\r\n"
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"{head}{body}".encode())
    if b" 200 " not in (status := await reader.readline()):
        _, _, content = (await reader.read()).partition(b"\r\n\r\n")
        outcome.error = f"{status.decode().strip()}: {content.decode()}"
    async for line in reader:
        if not line.startswith(b"data: {"):
            if line.startswith(b"data: [DONE]"):
                break
            continue
        chunk = json.loads(line[6:])
        if "error" in chunk:
            outcome.error = chunk["error"]["message"]
        elif chunk["choices"]:
            outcome.token_times.append(time.perf_counter() - started)
            outcome.text += chunk["choices"][0]["delta"].get("content", "")
        else:
            outcome.prompt_tokens = chunk["usage"]["prompt_tokens"]
            outcome.cached_tokens = chunk["usage"]["prompt_tokens_details"]["cached_tokens"]
            outcome.new_tokens = chunk["usage"]["completion_tokens"]
    writer.close()
    if not outcome.token_times and not outcome.error:
        outcome.error = "The stream ended without a response."
    outcome.ended_at = time.perf_counter() - started
    return outcome


@asynccontextmanager
async def sender(interface: str, said: dict[str, Any]) -> AsyncIterator[Send]:
    """What sends a load's requests over one of the interfaces."""
    if interface == "grpc":
        async with triton_sender(said["grpc"], said["models"][0]["name"]) as over_grpc:
            yield over_grpc
        return
    host, _, port = said["openai"].rpartition(":")
    yield lambda request, started: send((host, int(port)), said["models"][0]["name"], request, started)


@contextmanager
def server(engine: Path, threads: int, *options: str) -> Iterator[dict[str, Any]]:
    """`r1trt serve`, and what it says of itself, with the front door's process as `process`."""
    http, grpc, metrics, openai = map(str, random.sample(PORTS, 4))
    command = [sys.executable, "-m", "r1trt", "serve", str(engine), "--threads", str(threads), "--json"]
    command += ["--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics, "--openai-port", openai]
    command += options
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield {**json.loads(process.stdout.readline()), "process": process.pid}
        finally:
            process.send_signal(signal.SIGTERM)


async def measure(
    interface: str, said: dict[str, Any], requests: Sequence[Request], concurrency: int
) -> dict[str, Any]:
    """One load over one interface."""
    before, others = processor_seconds(said["process"]), OthersShare()
    async with sender(interface, said) as send_one:
        outcomes = await closed_load(send_one, requests, concurrency)
    found = summary(outcomes)
    spent = processor_seconds(said["process"]) - before
    return {
        "interface": interface,
        "concurrency": concurrency,
        "others_share": others.share(),
        "front_door_ms_per_token": round(1000 * spent / max(found["new_tokens"], 1), 3),
        **found,
    }


def table(loads: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians of each concurrency, OpenAI's interface as a part of gRPC's throughput."""
    rows = []
    for concurrency in sorted({load["concurrency"] for load in loads}):
        row: dict[str, Any] = {"concurrency": concurrency}
        for interface in INTERFACES:
            same = [load for load in loads if load["interface"] == interface]
            same = [load for load in same if load["concurrency"] == concurrency]
            row[interface] = {
                "new_tokens_per_second": median(load["new_tokens_per_second"] for load in same),
                "first_token_ms": median(load["time_to_first_token_ms"]["p50"] for load in same),
                "front_door_ms_per_token": median(load["front_door_ms_per_token"] for load in same),
            }
        both = [row[interface]["new_tokens_per_second"] for interface in reversed(INTERFACES)]
        rows.append({**row, "throughput_ratio": round(both[0] / both[1], 3)})
    return rows


def main() -> None:
    """Prints the table, and writes all loads."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine", type=Path)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", type=int, default=16, help="of a load, and as many as at a time")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    loads = []
    with server(options.engine, options.threads) as said:
        for concurrency in options.concurrency:
            requests = requests_of_mix("short", max(options.requests, concurrency), options.max_tokens)
            for _ in range(options.repeats):
                for interface in INTERFACES:
                    loads.append(asyncio.run(measure(interface, said, requests, concurrency)))
                    print(json.dumps(loads[-1]), file=sys.stderr)
    result = {"machine": machine(), "medians": table(loads), "loads": loads}
    print(json.dumps(result["medians"], indent=1))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
