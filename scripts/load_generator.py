"""Sends requests to a served generation model, over streaming gRPC, and measures what its users would see.

    python scripts/load_generator.py --model smollm2 --concurrency 8 --requests 64
    python scripts/load_generator.py --model smollm2 --rate 0.5 --duration 600 --mix mixed --plot load.png

With --concurrency a new request is sent when one ends; with --rate requests come at random times (a Poisson
process), however many are still running. Equal seeds give equal requests at equal times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

QUESTIONS = (
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain why the sky is blue.",
    "Give me three tips for learning a language.",
    "Tell me a story about a dragon who is afraid of fire.",
)
FILLER = "The river ran past the old mill, where nobody had ground corn for thirty years. "
# Sentences of filler before the question; a sentence has about 20 tokens.
MIXES = {"short": (0,), "mixed": (0, 0, 0, 4, 16), "long": (16, 24)}


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request of the load.

    Attributes:
        prompt: Text; the model's chat template is put around it.
        max_tokens: Tokens to generate, at most.
        seed: Of the sampling.
        temperature: 0 is greedy.
    """

    prompt: str
    max_tokens: int
    seed: int = 0
    temperature: float = 0.0


@dataclass(kw_only=True)
class Outcome:
    """What became of a request; times are seconds since the load began.

    Attributes:
        sent_at: When it was sent.
        token_times: When each piece of text came.
        prompt_tokens: Of the prompt, as the server counts.
        cached_tokens: Of the prompt, those that were not read, as OpenAI's interface counts.
        new_tokens: Generated, as the server counts.
        ended_at: When the last response came.
        text: The whole answer.
        error: The server's message, or empty.
    """

    sent_at: float
    token_times: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    ended_at: float = 0.0
    text: str = ""
    error: str = ""

    @property
    def to_first(self) -> float:
        """Seconds to the first text."""
        return self.token_times[0] - self.sent_at

    @property
    def per_token(self) -> float:
        """Mean seconds of a token after the first."""
        return (self.token_times[-1] - self.token_times[0]) / max(self.new_tokens - 1, 1)

    @property
    def total(self) -> float:
        """Seconds to the end of the answer."""
        return self.ended_at - self.sent_at


Send = Callable[[Request, float], Awaitable[Outcome]]
"""Sends a request and reads its answer; the second argument is when the load began (`time.perf_counter`)."""


def requests_of_mix(mix: str, count: int, max_tokens: int, seed: int = 0) -> list[Request]:
    """Draws requests; equal arguments give equal requests."""
    generator = random.Random(seed)
    requests = []
    for index in range(count):
        filler = FILLER * generator.choice(MIXES[mix])
        prompt = f"{filler}{generator.choice(QUESTIONS)}"
        lengths = (max_tokens,) if mix == "short" else (max_tokens // 4, max_tokens // 2, max_tokens)
        tokens = generator.choice(lengths)
        requests.append(Request(prompt=prompt, max_tokens=max(tokens, 1), seed=index))
    return requests


def _tensor(name: str, value: object, datatype: str, dtype: Any) -> triton.InferInput:
    array = np.array([[value]], dtype)
    tensor = triton.InferInput(name, array.shape, datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def _inputs(request: Request) -> list[triton.InferInput]:
    return [
        _tensor("text_input", request.prompt.encode(), "BYTES", np.object_),
        _tensor("chat", True, "BOOL", np.bool_),
        _tensor("stream", True, "BOOL", np.bool_),
        _tensor("max_tokens", request.max_tokens, "INT32", np.int32),
        _tensor("seed", request.seed, "UINT64", np.uint64),
        _tensor("temperature", request.temperature, "FP32", np.float32),
    ]


async def send(client: triton.InferenceServerClient, model: str, request: Request, started: float) -> Outcome:
    """Sends one request and reads its answer to the end; an error of any kind becomes the outcome's."""
    outcome = Outcome(sent_at=time.perf_counter() - started)

    async def call() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": model, "inputs": _inputs(request)}

    try:
        async for result, error in client.stream_infer(call()):
            if error is not None:
                outcome.error = str(error)
                break
            outcome.token_times.append(time.perf_counter() - started)
            outcome.text += result.as_numpy("text_output")[0, 0].decode()
            outcome.prompt_tokens = int(result.as_numpy("num_input_tokens")[0, 0])
            outcome.new_tokens += int(result.as_numpy("num_output_tokens")[0, 0])
    except InferenceServerException as error:
        outcome.error = str(error)
    if not outcome.token_times and not outcome.error:
        outcome.error = "The stream ended without a response."
    outcome.ended_at = time.perf_counter() - started
    return outcome


@asynccontextmanager
async def triton_sender(url: str, model: str) -> AsyncIterator[Send]:
    """Opens one connection that any number of requests share."""
    async with triton.InferenceServerClient(url) as client:
        yield lambda request, started: send(client, model, request, started)


async def closed_load(send_one: Send, requests: Sequence[Request], concurrency: int) -> list[Outcome]:
    """Keeps `concurrency` requests running until all are answered."""
    started = time.perf_counter()
    pending = iter(requests)
    outcomes: list[Outcome] = []

    async def worker() -> None:
        for request in pending:
            outcomes.append(await send_one(request, started))

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return outcomes


def arrival_times(rate: float, duration: float, seed: int = 0) -> Iterator[float]:
    """Yields the times of a Poisson process, `rate` a second on average, until `duration`; in seconds."""
    generator = random.Random(seed)
    at = generator.expovariate(rate)
    while at <= duration:
        yield at
        at += generator.expovariate(rate)


async def open_load(send_one: Send, requests: Sequence[Request], arrivals: Iterator[float]) -> list[Outcome]:
    """Sends a request at each of the times, over and over the same ones, and waits for all answers."""
    started = time.perf_counter()
    tasks = []
    for index, at in enumerate(arrivals):
        await asyncio.sleep(max(0.0, started + at - time.perf_counter()))
        tasks.append(asyncio.ensure_future(send_one(requests[index % len(requests)], started)))
    return list(await asyncio.gather(*tasks))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The 50th, 90th and 99th percentile, in milliseconds."""
    if not values:
        return {}
    found = np.percentile(np.array(values), [50, 90, 99]) * 1000
    return {name: round(float(value), 1) for name, value in zip(("p50", "p90", "p99"), found, strict=True)}


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Throughput and latencies of a load."""
    answered = [outcome for outcome in outcomes if not outcome.error]
    continued = [outcome for outcome in answered if outcome.new_tokens > 1]
    first = min((outcome.sent_at for outcome in outcomes), default=0.0)
    seconds = max((outcome.ended_at for outcome in outcomes), default=first) - first
    new_tokens = sum(outcome.new_tokens for outcome in answered)
    return {
        "requests": len(outcomes),
        "errors": len(outcomes) - len(answered),
        "seconds": round(seconds, 2),
        "prompt_tokens": sum(outcome.prompt_tokens for outcome in answered),
        "new_tokens": new_tokens,
        "new_tokens_per_second": round(new_tokens / seconds, 2) if seconds else 0.0,
        "time_to_first_token_ms": percentiles([outcome.to_first for outcome in answered]),
        "time_per_token_ms": percentiles([outcome.per_token for outcome in continued]),
        "total_ms": percentiles([outcome.total for outcome in answered]),
    }


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draws the three latencies, against the time at which requests were sent and as distributions."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    answered = [outcome for outcome in outcomes if not outcome.error]
    latencies = {
        "time to first token (ms)": [outcome.to_first * 1000 for outcome in answered],
        "time per token (ms)": [outcome.per_token * 1000 for outcome in answered],
        "whole answer (s)": [outcome.total for outcome in answered],
    }
    sent = [outcome.sent_at for outcome in answered]
    shares = np.arange(1, len(answered) + 1) / max(len(answered), 1) * 100
    figure, axes = pyplot.subplots(3, 2, sharex="col", figsize=(10, 8), layout="constrained")
    for (over_time, distribution), (title, values) in zip(axes, latencies.items(), strict=True):
        over_time.scatter(sent, values, s=8)
        over_time.set(ylabel=title, ylim=(0, None))
        distribution.sharey(over_time)
        distribution.plot(shares, sorted(values))
        distribution.grid(alpha=0.3)
    axes[-1][0].set_xlabel("request sent at (s)")
    axes[-1][1].set_xlabel("requests no slower than this (%)")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="127.0.0.1:8001", help="the server's gRPC address")
    parser.add_argument("--model", required=True)
    load = parser.add_mutually_exclusive_group(required=True)
    load.add_argument("--concurrency", type=int, help="requests at a time")
    load.add_argument("--rate", type=float, help="requests a second")
    parser.add_argument("--requests", type=int, default=64, help="with --concurrency")
    parser.add_argument("--duration", type=float, default=60.0, help="seconds, with --rate")
    parser.add_argument("--mix", choices=sorted(MIXES), default="mixed")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="PNG to write")
    parser.add_argument("--outcomes", type=Path, help="JSON to write, one entry a request")
    return parser.parse_args()


async def _run(options: argparse.Namespace) -> list[Outcome]:
    requests = requests_of_mix(options.mix, options.requests, options.max_tokens, options.seed)
    async with triton_sender(options.url, options.model) as send_one:
        if options.rate:
            arrivals = arrival_times(options.rate, options.duration, options.seed)
            return await open_load(send_one, requests, arrivals)
        return await closed_load(send_one, requests, options.concurrency)


def main() -> None:
    """Runs the load that the arguments ask for, and prints its summary as JSON; exits 1 on any error."""
    options = _arguments()
    outcomes = asyncio.run(_run(options))
    result = summary(outcomes)
    print(json.dumps(result, indent=2))
    if options.plot:
        plot(outcomes, options.plot)
    if options.outcomes:
        options.outcomes.write_text(json.dumps([asdict(outcome) for outcome in outcomes]))
    if result["errors"]:
        sys.exit(next(outcome.error for outcome in outcomes if outcome.error))


if __name__ == "__main__":
    main()
