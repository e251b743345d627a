"""Measures a model in parts on a Ray cluster of this machine's own: throughput, and the death of a stage.

python scripts/benchmark_cluster.py --parts engines/SmolLM2/parts --whole engines/SmolLM2/cpu-fp32

Both are `cpu` builds of one export, for at least 8 rows. One after the other: eight requests at a time by one
process; by three nodes, with one lane and with as many lanes as stages; and once more, with a stage killed in
the middle. What the pipeline's simulator says of the same stages stands beside it.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cluster_requests import PROMPTS, Answer, Submit, answers, requests
from local_nodes import local_nodes
from machine import machine
from receipts import write_receipt

from r1trt.artifacts.build import BuildArtifact
from r1trt.cluster.config import ClusterConfig
from r1trt.cluster.lanes import Lanes
from r1trt.cluster.open import opened_stages
from r1trt.cluster.stages import Stages
from r1trt.estimate.pipeline import Pipeline, seconds_of_round, steady_bubble
from r1trt.machine import OthersShare
from r1trt.serving.config import SchedulerConfig
from r1trt.serving.metrics import RecordedMetrics
from r1trt.serving.request import GenerationRequest
from r1trt.serving.scheduler import Scheduler
from r1trt.serving.scheduler_thread import SchedulerThread
from r1trt.serving.session import serving_session
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir

ROWS, NODES, CORES = len(PROMPTS), 3, 2
CHUNK, PATIENCE, SIMULATED_ROUNDS = 32, 300.0, 2000
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
        self._texts: list[str] = []
        self.tokenizer, self.new_tokens, self.repeats = tokenizer, new_tokens, repeats
        self.config = SchedulerConfig(chunk_tokens=CHUNK, prefix_reuse=False)

    def run(
        self, name: str, submit: Submit, meanwhile: Callable[[list[Answer]], None] = lambda _: None
    ) -> Run:
        """All requests once; the first run's texts are those that others are compared with."""
        others = OthersShare()
        found, seconds = answers(submit, self._wanted, patience=PATIENCE, meanwhile=meanwhile)
        self._texts = self._texts or [answer.text for answer in found]
        pauses = [b - a for answer in found for a, b in itertools.pairwise(answer.times)]
        return Run(
            name=name,
            seconds=seconds,
            tokens_per_second=sum(answer.tokens for answer in found) / seconds,
            equal_texts=sum(a.text == text for a, text in zip(found, self._texts, strict=True)),
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
        name = f"one process, {threads} thread{'s' * (threads > 1)}"
        runs = [benchmark.run(name, thread.submit) for _ in range(benchmark.repeats)]
        return min(runs, key=lambda run: run.seconds)
    finally:
        thread.close()
        session.close()


@dataclass(frozen=True, kw_only=True)
class StagesRun:
    """What the stages did in one run.

    Attributes:
        lanes: Micro-batches.
        seconds: Of the run.
        calls: Calls that each stage ran, prompts included.
        stage_seconds: Mean time of a call in each.
        variation: Standard deviation of these times, as a share of their mean; the mean of all stages'.
        bubble: Share of all stages' time that they waited.
    """

    lanes: int
    seconds: float
    calls: int
    stage_seconds: tuple[float, ...]
    variation: float
    bubble: float


def in_lanes(benchmark: Benchmark, stages: Stages, lanes: int) -> tuple[Run, StagesRun]:
    """The stages, with some lanes: the fastest of several runs, and what the stages did in it."""
    front = Lanes(stages, benchmark.tokenizer, lanes, benchmark.config, RecordedMetrics())
    try:
        runs = [_one_in_lanes(benchmark, stages, lanes, front) for _ in range(benchmark.repeats)]
    finally:
        front.close()
    return min(runs, key=lambda pair: pair[0].seconds)


def _one_in_lanes(benchmark: Benchmark, stages: Stages, lanes: int, front: Lanes) -> tuple[Run, StagesRun]:
    before = stages.work()
    run = benchmark.run(f"{NODES} nodes, {lanes} lane{'s' * (lanes > 1)}", front.submit)
    works = [
        tuple(late - early for late, early in zip(after, first, strict=True))
        for after, first in zip(stages.work(), before, strict=True)
    ]
    means = tuple(seconds / calls for calls, seconds, _ in works)
    varied = [
        math.sqrt(max(0.0, squares / calls - mean**2)) / mean
        for (calls, _, squares), mean in zip(works, means, strict=True)
    ]
    return run, StagesRun(
        lanes=lanes,
        seconds=run.seconds,
        calls=int(works[0][0]),
        stage_seconds=means,
        variation=sum(varied) / len(varied),
        bubble=1.0 - sum(seconds for _, seconds, _ in works) / (len(works) * run.seconds),
    )


def with_a_death(benchmark: Benchmark, stages: Stages) -> Run:
    """As many lanes as stages, one of which is killed when all texts are at their middle."""
    front = Lanes(stages, benchmark.tokenizer, NODES, benchmark.config, RecordedMetrics())

    def killing(found: list[Answer]) -> None:
        middle = benchmark.new_tokens // 2
        while min(answer.tokens for answer in found) < middle and not all(a.ended.is_set() for a in found):
            time.sleep(0.005)
        os.kill(stages.processes[KILLED][1], signal.SIGKILL)

    try:
        return benchmark.run(f"{NODES} nodes, {NODES} lanes, a stage killed", front.submit, killing)
    finally:
        front.close()


def simulated(one: StagesRun, hop: float) -> dict[str, Any]:
    """What the simulator says of a run, from the mean time of each stage's calls in it."""
    even = Pipeline(stage_seconds=one.stage_seconds, transfer_seconds=hop, front_seconds=hop)
    varied = replace(even, variation=one.variation)
    rounds = one.calls / one.lanes
    return {
        **asdict(one),
        "hop_seconds": hop,
        "simulated_seconds": rounds * seconds_of_round(even, one.lanes),
        "simulated_bubble": steady_bubble(even, one.lanes),
        "varied_seconds": rounds * seconds_of_round(varied, one.lanes, SIMULATED_ROUNDS),
        "varied_bubble": steady_bubble(varied, one.lanes, SIMULATED_ROUNDS),
    }


def hop_of(one: StagesRun) -> float:
    """What a run of one lane spends between stages and in the scheduler, a stage's share of a call."""
    return max(0.0, one.seconds / one.calls - sum(one.stage_seconds)) / len(one.stage_seconds)


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
    names = ("bubble", "simulated_bubble", "varied_bubble")
    figures = (
        ", ".join(f"{1e3 * seconds:.1f}" for seconds in one["stage_seconds"]),
        f"{one['variation']:.0%}",
        str(one["calls"]),
        f"{1e3 * one['hop_seconds']:.1f}",
        *(f"{one[name]:.2f}" for name in ("seconds", "simulated_seconds", "varied_seconds")),
        *(f"{one[name]:.0%}" for name in names),
    )
    return f"| {one['lanes']} | {' | '.join(figures)} |"


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

Beside it the simulator, given the mean time of each stage's calls in the same run, which has in it that
stages share cores with each other and with others: with calls that all take so long (*even*), and with calls
that vary as those of the run did (*varied*). A hop is what one lane spends on each stage beside its calls: it
is taken from the run with one lane, so that only the run with more lanes tests the simulator.

| lanes | calls in stages, ms | vary by | calls | a hop, ms | s | even | varied | waited | even | varied |
|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
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
        pairs = [in_lanes(benchmark, stages, lanes) for lanes in (1, NODES)]
        runs += [run for run, _ in pairs]
        model = [simulated(one, hop_of(pairs[0][1])) for _, one in pairs]
        runs.append(with_a_death(benchmark, stages))
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
