"""Serves an engine for ten minutes at a fixed arrival rate, and looks for errors and for memory that grows.

A burst of long requests comes first: it touches every row of the KV cache, and lets ONNX Runtime allocate for
its largest calls. From then on the resident memory of the server and of its model's process is sampled, and
after a further warm-up a straight line is fitted to each. The script fails where a request does, or where a
line rises by more than the tolerance over the soak.

    python scripts/soak_serving.py ENGINE --rate 0.5 --duration 600
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from load_generator import (
    FILLER,
    MIXES,
    Outcome,
    Request,
    arrival_times,
    closed_load,
    open_load,
    requests_of_mix,
    summary,
    triton_sender,
)
from machine import machine
from processes import OthersShare, processes_below, resident_bytes

from r1trt.artifacts import BuildArtifact
from r1trt.package.limits import GenerationLimits
from r1trt.triton_server.serve import ServeConfig, served_models
from r1trt.triton_server.served_models import EngineToServe

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLE_S = 1.0
# Parts of the soak that the fitted lines leave out: what decides, and whether it is level towards the end.
WARM_UP_SHARE, LATE_SHARE = 0.2, 0.6
MB = 1e6


@dataclass(kw_only=True)
class MemorySamples:
    """Resident memory of one process.

    Attributes:
        name: The program's.
        times: Seconds since the soak began.
        resident: Bytes.
    """

    name: str
    times: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Trend:
    """A straight line through memory samples.

    Attributes:
        start_mb: The line's value at its start.
        growth_mb: How much it rises over the samples that were fitted.
        mb_per_hour: Its slope.
        seconds: The time that was fitted.
    """

    start_mb: float
    growth_mb: float
    mb_per_hour: float
    seconds: float


async def sample_memory(pid: int, samples: dict[int, MemorySamples]) -> None:
    """Adds a sample of every process below `pid` now and then, until it is cancelled."""
    started = time.perf_counter()
    while True:
        for each in processes_below(pid):
            name = Path(f"/proc/{each}/comm").read_text().strip()
            of_process = samples.setdefault(each, MemorySamples(name=name))
            of_process.times.append(round(time.perf_counter() - started, 2))
            of_process.resident.append(resident_bytes(each))
        await asyncio.sleep(SAMPLE_S)


def trend(times: Sequence[float], resident: Sequence[float], warm_up: float) -> Trend:
    """Fits a line by least squares to the samples after `warm_up` seconds.

    Raises:
        ValueError: Fewer than two samples are left.
    """
    at, values = np.array(times), np.array(resident, np.float64)
    values, at = values[at >= warm_up], at[at >= warm_up]
    if len(at) < 2:
        raise ValueError(f"{len(at)} samples after {warm_up} s are too few for a line")
    slope, intercept = np.polyfit(at, values, 1)
    seconds = float(at[-1] - at[0])
    return Trend(
        start_mb=round(float(intercept + slope * at[0]) / MB, 2),
        growth_mb=round(float(slope) * seconds / MB, 2),
        mb_per_hour=round(float(slope) * 3600 / MB, 2),
        seconds=round(seconds, 1),
    )


def trends_of(samples: Sequence[MemorySamples], warm_up: float) -> dict[str, dict[str, float]]:
    """Fits a line to each process."""
    return {each.name: vars(trend(each.times, each.resident, warm_up)) for each in samples}


def long_requests(rows: int, capacity: int) -> list[Request]:
    """Two requests a row that fill most of it; a word of the filler has about 1.2 tokens."""
    words = (FILLER * capacity).split()[: capacity // 2]
    return [
        Request(prompt=f"{index}. {' '.join(words)}", max_tokens=max(capacity // 5, 1))
        for index in range(2 * rows)
    ]


async def soak(
    model: Any, requests: Sequence[Request], warm_up: Sequence[Request], options: argparse.Namespace
) -> tuple[list[Outcome], list[Outcome], dict[int, MemorySamples]]:
    """Puts the burst and then the load on the server; returns both outcomes and the memory samples."""
    samples: dict[int, MemorySamples] = {}
    async with triton_sender(model.grpc, model.name) as send_one:
        burst = await closed_load(send_one, warm_up, max(1, len(warm_up) // 2))
        sampler = asyncio.create_task(sample_memory(model.server.pid, samples))
        arrivals = arrival_times(options.rate, options.duration, options.seed)
        outcomes = await open_load(send_one, requests, arrivals)
        sampler.cancel()
        with suppress(asyncio.CancelledError):  # and with nothing else that ended it
            await sampler
    return burst, outcomes, samples


def counters(address: str) -> dict[str, float]:
    """The model's own metrics, histograms left out."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("r1trt_"))
    names = ((name.split("{")[0], float(value)) for name, value in pairs)
    return {name: value for name, value in names if not name.endswith(("_bucket", "_sum", "_count"))}


def run(options: argparse.Namespace) -> tuple[dict[str, Any], list[Outcome], list[MemorySamples]]:
    """Serves, soaks, and returns the report, the outcomes and the samples."""
    manifest = BuildArtifact.read(options.engine).manifest
    rows = options.rows or manifest.max_batch_size
    config = ServeConfig(
        engines=(EngineToServe(path=options.engine, name="soak"),),
        http_port=options.port,
        grpc_port=options.port + 1,
        metrics_port=options.port + 2,
        limits=GenerationLimits(rows=rows, threads=options.threads),
    )
    requests = requests_of_mix(options.mix, 512, options.max_tokens, options.seed)
    with served_models(config) as model:
        others = OthersShare()
        warm_up = long_requests(rows, manifest.capacity or 0)
        burst, outcomes, by_pid = asyncio.run(soak(model, requests, warm_up, options))
        others_share = others.share()
        metrics = counters(model.metrics)
    samples = list(by_pid.values())
    trends, late = (trends_of(samples, share * options.duration) for share in (WARM_UP_SHARE, LATE_SHARE))
    errors = [outcome.error for outcome in [*burst, *outcomes] if outcome.error]
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "others_share_of_processors": others_share,
        "load_average_after": round(os.getloadavg()[0], 2),
        "engine": {
            "precision": manifest.precision,
            "capacity": manifest.capacity,
            "versions": dict(manifest.versions),
        },
        **{
            key: getattr(options, key) for key in ("rate", "duration", "mix", "max_tokens", "threads", "seed")
        },
        "rows": rows,
        "load": summary(outcomes),
        "errors": errors,
        "memory": trends,
        "memory_late": late,
        "tolerance_mb": options.tolerance_mb,
        "metrics": metrics,
        "samples": [vars(each) for each in samples],
    }
    return report, outcomes, samples


def plot(outcomes: Sequence[Outcome], samples: Sequence[MemorySamples], path: Path) -> None:
    """Draws memory and latencies against time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 1, sharex=True, figsize=(9, 9), layout="constrained")
    for each in samples:
        axes[0].plot(each.times, [value / MB for value in each.resident], label=each.name)
    axes[0].set(ylabel="resident memory (MB)", ylim=(0, None))
    axes[0].legend()
    answered = [outcome for outcome in outcomes if not outcome.error]
    sent = [outcome.sent_at for outcome in answered]
    axes[1].scatter(sent, [outcome.to_first * 1000 for outcome in answered], s=8)
    axes[1].set(ylabel="time to first token (ms)", ylim=(0, None))
    axes[2].scatter(sent, [outcome.per_token * 1000 for outcome in answered], s=8)
    axes[2].set(ylabel="time per token (ms)", ylim=(0, None), xlabel="time (s)")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def problems(report: dict[str, Any]) -> list[str]:
    """What the soak must not show."""
    found = [f"a request failed: {error}" for error in report["errors"][:5]]
    if not report["load"]["requests"]:
        found.append("no request was sent")
    for name, line in report["memory"].items():
        if line["growth_mb"] > report["tolerance_mb"]:
            found.append(f"{name} grew by {line['growth_mb']} MB in {line['seconds']} s")
    return found


def main() -> None:
    """Parses the command line, soaks, and writes numbers and picture; exits 1 where something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine", type=Path, help="build directory for the CPU")
    parser.add_argument("--rate", type=float, default=0.5, help="requests a second")
    parser.add_argument("--duration", type=float, default=600.0, help="seconds")
    parser.add_argument("--mix", choices=sorted(MIXES), default="mixed")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, help="default: the engine's batch size")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tolerance-mb", type=float, default=5.0, help="growth of a process that passes")
    parser.add_argument("--port", type=int, default=18300, help="this one and the two after it are used")
    parser.add_argument("--report-dir", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    options = parser.parse_args()
    report, outcomes, samples = run(options)
    options.report_dir.mkdir(parents=True, exist_ok=True)
    path = options.report_dir / f"serving-soak-{report['date']}"
    path.with_suffix(".json").write_text(json.dumps(report) + "\n", encoding="utf-8")
    plot(outcomes, samples, path.with_suffix(".png"))
    print(json.dumps({key: report[key] for key in ("load", "memory", "memory_late", "metrics")}, indent=2))
    if found := problems(report):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
