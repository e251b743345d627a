"""The ways to serve that `benchmark_serving.py` compares: our server, our loop alone, llama.cpp's server."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from load_generator import Outcome, Request, closed_load, triton_sender

from r1trt.arch import BuildPrecision
from r1trt.artifacts import BuildArtifact
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.package.limits import GenerationLimits
from r1trt.runtime.continuation import Continuation
from r1trt.runtime.generation import Generation
from r1trt.runtime.load import session_from_engine
from r1trt.runtime.sampling import SamplingConfig
from r1trt.tokenizer.text_tokenizer import TextTokenizer
from r1trt.triton_server.serve import ServeConfig, served_models
from r1trt.triton_server.served_models import EngineToServe

CAPACITY = 512
CONCURRENCIES = {1: 4, 8: 16, 32: 64}  # and how many requests are sent

OURS = "r1trt serve"
PEER_KINDS: dict[BuildPrecision, str] = {"fp32": "F32", "int8": "Q8_0", "int4": "Q4_K_M"}
"""What llama.cpp calls weights of as many bits."""
Load = Callable[[Sequence[Request], int], list[Outcome]]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to serve.

    Attributes:
        name: What the table calls it.
        load: Answers requests, so many at a time.
        concurrencies: Those that it is measured at.
    """

    name: str
    load: Load
    concurrencies: tuple[int, ...] = tuple(CONCURRENCIES)


def make_engine(checkpoint: Path, directory: Path, rows: int, precision: BuildPrecision) -> Path:
    """Exports and builds a CPU engine, unless `directory` has it."""
    engine = directory / f"cpu-{precision}-{rows}-rows"
    if engine.is_dir() and BuildArtifact.read(engine).manifest.source.checkpoint == str(checkpoint):
        return engine
    export = ExportConfig(
        checkpoint=checkpoint, output=directory / "export", max_seq_len=CAPACITY, last_token_logits=True
    )
    model = export_checkpoint(export)
    build = BuildConfig(model=model, arch="cpu", precision=precision, max_batch_size=rows, output=engine)
    return build_engine(build)


@contextmanager
def our_server(engine: Path, port: int, threads: int) -> Iterator[Contender]:
    """Starts the bundled Triton with the engine."""
    config = ServeConfig(
        engines=(EngineToServe(path=engine, name="smollm2"),),
        http_port=port,
        grpc_port=port + 1,
        metrics_port=port + 2,
        limits=GenerationLimits(threads=threads, prefix_reuse=False),
    )
    with served_models(config) as model:

        async def run(requests: Sequence[Request], concurrency: int) -> list[Outcome]:
            async with triton_sender(model.grpc, model.name) as send_one:
                return await closed_load(send_one, requests, concurrency)

        yield Contender(name=OURS, load=lambda requests, concurrency: asyncio.run(run(requests, concurrency)))


@contextmanager
def our_loop(
    engine: Path, tokenizer: TextTokenizer, prompt_ids: dict[str, list[int]], threads: int
) -> Iterator[Contender]:
    """Loads the engine in this process, for one request after another without a server."""
    session = session_from_engine(engine, threads=threads)

    def generate(request: Request, started: float) -> Outcome:
        outcome = Outcome(sent_at=time.perf_counter() - started)
        sampling = SamplingConfig()
        continuation = Continuation(tokenizer, sampling=sampling, max_new_tokens=request.max_tokens)
        generation = Generation(session, prompt_ids[request.prompt], continuation, sampling=sampling)
        for piece in generation:
            outcome.token_times.append(time.perf_counter() - started)
            outcome.text += piece
        outcome.prompt_tokens = len(prompt_ids[request.prompt])
        outcome.new_tokens = len(generation.token_ids)
        outcome.ended_at = time.perf_counter() - started
        return outcome

    def load(requests: Sequence[Request], concurrency: int) -> list[Outcome]:
        started = time.perf_counter()
        return [generate(request, started) for request in requests]

    yield Contender(name="r1trt generate's loop", load=load, concurrencies=(1,))
    session.close()


@contextmanager
def peer_server(options: argparse.Namespace, prompt_ids: dict[str, list[int]]) -> Iterator[Contender]:
    """Builds and starts llama.cpp's server, with the same weights in as many bits."""
    from llama_build import llama_program, quantized_gguf
    from llama_server import llama_sender, llama_server, server_arguments

    program, kind = llama_program(options.peer_env, "llama-server"), PEER_KINDS[options.precision]
    model = quantized_gguf(options.peer_env, options.checkpoint, options.work_dir, kind)
    arguments = server_arguments(rows=options.rows, capacity=CAPACITY, threads=options.threads)
    port = options.port + 3
    send_one = llama_sender(port, prompt_ids)
    log = options.peer_env / "llama-server.log"
    with llama_server(program, model, arguments, port=port, log=log):
        yield Contender(
            name=f"llama-server {kind}",
            load=lambda requests, concurrency: asyncio.run(closed_load(send_one, requests, concurrency)),
        )
