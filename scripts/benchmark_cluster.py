"""Measures a model in parts on a Ray cluster of this machine's own: throughput, and the death of a stage.

python scripts/benchmark_cluster.py --parts engines/SmolLM2/parts --whole engines/SmolLM2/cpu-fp32

Both are `cpu` builds of one export, for at least 8 rows. One after the other: eight requests at a time by one
process; by three nodes, with one lane and with as many lanes as stages; and once more, with a stage killed in
the middle. What the pipeline's simulator says of the same stages stands beside it.
"""

from __future__ import annotations

import argparse
import datetime
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cluster_requests import PROMPTS, Answer, Submit, answers, requests
from local_nodes import local_nodes
from machine import machine
from receipts import write_receipt

from r1trt.artifacts.build import BuildArtifact
from r1trt.artifacts.parts import PartsManifest
from r1trt.cluster.config import ClusterConfig
from r1trt.cluster.lanes import Lanes
from r1trt.cluster.open import opened_stages
from r1trt.cluster.part import session_of_stage
from r1trt.cluster.session import ClusterSession
from r1trt.cluster.stages import Stages
from r1trt.estimate.pipeline import Pipeline, seconds_of_round
from r1trt.machine import OthersShare
from r1trt.serving.config import SchedulerConfig
from r1trt.serving.metrics import RecordedMetrics
from r1trt.serving.request import GenerationRequest
from r1trt.serving.scheduler import Scheduler
from r1trt.serving.scheduler_thread import SchedulerThread
from r1trt.serving.session import serving_session
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir

ROWS, NODES, CORES = len(PROMPTS), 3, 2
CHUNK, PAST, CALLS, PATIENCE = 32, 40, 15, 300.0
KILLED = 1
RECEIPTS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"


@dataclass(frozen=True, kw_only=True)
class Run:
    """Eight requests at a time.

    Attributes:
        name: Who answered.
        seconds: Until the last had ended.
        tokens_per_second: New tokens of all.
        equal_texts: Requests whose text is the one process's.
        errors: What requests ended with.
        others: Cores that other programs took meanwhile.
        longest_pause: Of any request, between two messages.
    """

    name: str
    seconds: float
    tokens_per_second: float
    equal_texts: int
    errors: tuple[str, ...]
    others: float
    longest_pause: float


class Benchmark:
    """All runs, which share prompts and the texts that are right."""

    def __init__(self, tokenizer: TextTokenizer, new_tokens: int, repeats: int) -> None:
        self._wanted: list[GenerationRequest] = requests(tokenizer, new_tokens)
        self._repeats = repeats
        self.tokenizer = tokenizer
        self.texts: list[str] = []
        self.config = SchedulerConfig(chunk_tokens=CHUNK, prefix_reuse=False)

    def run(self, name: str, submit: Submit, meanwhile: Callable[[list[Answer]], None] | None = None) -> Run:
        """The fastest of several; one alone with something that happens meanwhile."""
        if meanwhile is not None:
            return self._run(name, submit, meanwhile)
        return min((self._run(name, submit) for _ in range(self._repeats)), key=lambda run: run.seconds)

    def _run(
        self, name: str, submit: Submit, meanwhile: Callable[[list[Answer]], None] = lambda _: None
    ) -> Run:
        others = OthersShare()
        found, seconds = answers(submit, self._wanted, patience=PATIENCE, meanwhile=meanwhile)
        self.texts = self.texts or [answer.text for answer in found]
        pauses = [b - a for answer in found for a, b in zip(answer.times, answer.times[1:], strict=False)]
        return Run(
            name=name,
            seconds=seconds,
            tokens_per_second=sum(answer.tokens for answer in found) / seconds,
            equal_texts=sum(a.text == text for a, text in zip(found, self.texts, strict=True)),
            errors=tuple(answer.error for answer in found if answer.error is not None),
            others=CORES * others.share(),
            longest_pause=max(pauses),
        )


def one_process(benchmark: Benchmark, engine: Path, threads: int) -> Run:
    """The whole engine, with one scheduler."""
    session = serving_session(engine, ROWS, threads=threads)
    scheduler = Scheduler(session, benchmark.tokenizer, benchmark.config, RecordedMetrics())
    thread = SchedulerThread(scheduler)
    try:
        return benchmark.run(f"one process, {threads} thread{'s' * (threads > 1)}", thread.submit)
    finally:
        thread.close()
        session.close()


def in_lanes(benchmark: Benchmark, stages: Stages, lanes: int, *, kill: bool = False) -> Run:
    """The stages, with some lanes; one stage may be killed when all texts are at their middle."""
    front = Lanes(stages, benchmark.tokenizer, lanes, benchmark.config, RecordedMetrics())

    def killing(found: list[Answer]) -> None:
        middle = benchmark._wanted[0].max_new_tokens // 2
        while min(answer.tokens for answer in found) < middle and not all(a.ended.is_set() for a in found):
            time.sleep(0.005)
        os.kill(stages.processes[KILLED][1], signal.SIGKILL)

    name = f"{NODES} nodes, {lanes} lane{'s' * (lanes > 1)}" + (", a stage killed" if kill else "")
    try:
        return benchmark.run(name, front.submit, killing if kill else None)
    finally:
        front.close()


def stage_seconds(directory: Path, rows: int) -> list[float]:
    """Time of a decode call of so many rows in each part, in this process, alone."""
    parts = PartsManifest.read(directory)
    found = []
    for index in range(len(parts.parts)):
        session = session_of_stage(directory, index, parts.build, threads=1)
        session.reset(rows)
        ids, hidden = np.ones((rows, 1), np.int64), np.ones((rows, 1, parts.hidden_size), np.float32)
        ones, past = np.ones(rows, np.int64), np.full(rows, PAST, np.int64)
        given = hidden if index else ids
        found.append(fastest_seconds(lambda: session.run(given, ones, past, only_last=True)))  # noqa: B023
        session.close()
    return found


def call_seconds(stages: Stages, rows: int) -> float:
    """Time of a decode call through all stages, one at a time."""
    session = ClusterSession(stages, 0, rows)
    session.reset(rows)
    ids, ones = np.ones((rows, 1), np.int64), np.ones(rows, np.int64)
    session.step(np.ones((rows, PAST), np.int64), ones * PAST, 0 * ones, only_last=True)
    return fastest_seconds(lambda: session.step(ids, ones, PAST * ones, only_last=True))


def fastest_seconds(call: Callable[[], Any]) -> float:
    """Of some calls: others use the machine too."""
    times = []
    for _ in range(CALLS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def simulated(directory: Path, stages: Stages) -> list[dict[str, Any]]:
    """What the simulator says of one lane and of three, from times of calls that were measured alone."""
    found = []
    for lanes in (1, NODES):
        rows = -(-ROWS // lanes)
        seconds, whole = stage_seconds(directory, rows), call_seconds(stages, rows)
        hop = max(0.0, whole - sum(seconds)) / len(seconds)
        pipeline = Pipeline(
            stage_seconds=tuple(seconds), transfer_seconds=hop, front_seconds=hop, cores=CORES
        )
        found.append(
            {
                "lanes": lanes,
                "stage_seconds": seconds,
                "hop_seconds": hop,
                "decode_tokens_per_second": ROWS / seconds_of_round(pipeline, lanes),
            }
        )
    return found


def run_row(run: dict[str, Any]) -> str:
    """One run, as a row of the receipt's table."""
    figures = (
        f"{run['seconds']:.2f}",
        f"{run['tokens_per_second']:.1f}",
        f"{run['equal_texts']} of {ROWS}",
        str(len(run["errors"])),
        f"{run['longest_pause']:.2f}",
        f"{run['others']:.1f}",
    )
    return f"| {run['name']} | {' | '.join(figures)} |"


def simulated_row(one: dict[str, Any]) -> str:
    """One simulation, as a row of the receipt's table."""
    stages = ", ".join(f"{1e3 * seconds:.1f}" for seconds in one["stage_seconds"])
    rate = f"{one['decode_tokens_per_second']:.1f}"
    return f"| {one['lanes']} | {stages} | {1e3 * one['hop_seconds']:.1f} | {rate} |"


def recovery_line(one: dict[str, Any]) -> str:
    """One recovery, in words."""
    stages = ", ".join(map(str, one["stages"]))
    return f"- stage {stages}: {one['seconds']:.2f} s from when a call found it gone to its part loaded again"


def page(document: dict[str, Any]) -> str:
    """The receipt in words."""
    where = document["machine"]
    return f"""# A cluster of {NODES} local nodes, {document["date"]}

{document["model"]}, {ROWS} requests at a time, {document["new_tokens"]} new tokens each, greedy;
{where["cores"]} cores of {where["cpu"]}, which other programs used too (*others*, in cores).
A stage has one thread, so that three stages share two cores. By `scripts/benchmark_cluster.py`; of runs
without a death the fastest of {document["repeats"]}.

| answered by | s | tokens/s | texts as one process's | errors | longest pause, s | others |
|---|--:|--:|--:|--:|--:|--:|
{chr(10).join(map(run_row, document["runs"]))}

The stage was killed (SIGKILL) when all {ROWS} texts were at their middle:

{chr(10).join(map(recovery_line, document["recoveries"]))}

What the simulator says of decode alone, on two cores, from the fastest call of each stage alone; a hop is
what a call through all stages takes beside them, a stage's share:

| lanes | stages, ms | a hop, ms | tokens/s |
|--:|--:|--:|--:|
{chr(10).join(map(simulated_row, document["simulated"]))}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and writes a receipt."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=Path, required=True)
    parser.add_argument("--whole", type=Path, required=True)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RECEIPTS)
    options = parser.parse_args(arguments)
    benchmark = Benchmark(tokenizer_from_dir(options.parts), options.new_tokens, options.repeats)
    runs = [one_process(benchmark, options.whole, threads) for threads in (CORES, 1)]
    config = ClusterConfig(directory=options.parts, rows=ROWS, threads=1)
    with local_nodes(NODES) as address, opened_stages(address, config, print) as stages:
        model = simulated(options.parts, stages)
        runs += [in_lanes(benchmark, stages, lanes) for lanes in (1, NODES)]
        runs.append(in_lanes(benchmark, stages, NODES, kill=True))
        recoveries = [asdict(recovery) for recovery in stages.recoveries]
    today = datetime.date.today().isoformat()
    manifest = BuildArtifact.read(options.parts).manifest
    document = {
        "date": today,
        "machine": machine(),
        "model": f"{manifest.source.model_name} in {manifest.precision.upper()}, {NODES} parts",
        "new_tokens": options.new_tokens,
        "repeats": options.repeats,
        "runs": [asdict(run) for run in runs],
        "recoveries": recoveries,
        "simulated": model,
    }
    print(write_receipt(options.output, f"cluster-local-{today}", document, page(document)))


if __name__ == "__main__":
    main()
