"""First tokens of 32 prompts that arrive at once: calls of 64 prompt tokens beside calls of measured sizes.

    python scripts/benchmark_call_sizes.py engines/SmolLM2/cpu-int8

Two of our servers run side by side and get the same load in turn, the one of `benchmark_serving.py`; only one
of them works at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmark_serving import story_requests
from load_generator import Outcome, Request, closed_load, summary, triton_sender
from machine import machine
from processes import OthersShare
from receipts import write_receipt

from r1trt.package.limits import GenerationLimits
from r1trt.triton_server.serve import ServeConfig, ServedModels, served_models
from r1trt.triton_server.served_models import EngineToServe

REPOSITORY = Path(__file__).resolve().parent.parent
CONTENDERS: Mapping[str, int | None] = {"64 tokens": 64, "measured": None}


def serve_configs(options: argparse.Namespace) -> dict[str, ServeConfig]:
    """How both servers are started."""
    configs = {}
    for index, (name, chunk) in enumerate(CONTENDERS.items()):
        http, grpc, metrics = range(options.port + 3 * index, options.port + 3 * index + 3)
        configs[name] = ServeConfig(
            engines=(EngineToServe(path=options.engine),),
            http_port=http,
            grpc_port=grpc,
            metrics_port=metrics,
            limits=GenerationLimits(
                rows=options.concurrency, threads=options.threads, chunk_tokens=chunk, prefix_reuse=False
            ),
        )
    return configs


async def send_all(model: ServedModels, requests: Sequence[Request], concurrency: int) -> list[Outcome]:
    """One load."""
    async with triton_sender(model.grpc, model.name) as send_one:
        return await closed_load(send_one, requests, concurrency)


def measure(name: str, model: ServedModels, requests: Sequence[Request], concurrency: int) -> dict[str, Any]:
    """One load on one server; the first tokens of the requests that came at once are told apart."""
    others = OthersShare()
    outcomes = asyncio.run(send_all(model, requests, concurrency))
    first = sorted(outcomes, key=lambda outcome: outcome.sent_at)[:concurrency]
    waits = sorted(1000 * (outcome.token_times[0] - outcome.sent_at) for outcome in first)
    found = {
        "contender": name,
        "others_share": others.share(),
        "first_token_ms_at_once": {"p50": round(median(waits), 1), "last": round(waits[-1], 1)},
        **summary(outcomes),
    }
    found["texts"] = sorted(outcome.text for outcome in outcomes)
    print(json.dumps({key: value for key, value in found.items() if key != "texts"}), file=sys.stderr)
    return found


def table(loads: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians of each server."""
    rows = []
    for name in CONTENDERS:
        same = [load for load in loads if load["contender"] == name]
        rows.append(
            {
                "contender": name,
                "p50_ms": median(load["first_token_ms_at_once"]["p50"] for load in same),
                "last_ms": median(load["first_token_ms_at_once"]["last"] for load in same),
                "all_p99_ms": median(load["time_to_first_token_ms"]["p99"] for load in same),
                "per_token_p99_ms": median(load["time_per_token_ms"]["p99"] for load in same),
                "new_tokens_per_second": median(load["new_tokens_per_second"] for load in same),
            }
        )
    return rows


def markdown(report: Mapping[str, Any]) -> str:
    """The report for a reader."""
    before, after = report["medians"]
    shares = report["others_share"]
    lines = [
        f"# {report['concurrency']} prompts at once, {report['engine']}, {report['date']}",
        "",
        f"{report['machine']['cpu']}, {report['threads']} threads; medians of {report['repeats']} loads each,"
        f" in turn. Others took {shares[0]:.0%} of the processors (median; at most {shares[1]:.0%}), so times"
        f" are those of a busy machine, and ratios of one run count. Same texts: {report['same_texts']}.",
        "",
        "| calls that read prompts | first token of those that came at once, ms (p50 / last) |"
        " time per token, ms (p99) | new tokens/s |",
        "|---|---:|---:|---:|",
    ]
    for row in (before, after):
        times = f"{row['p50_ms']:,.0f} / {row['last_ms']:,.0f} | {row['per_token_p99_ms']:,.0f}"
        lines.append(f"| {row['contender']} | {times} | {row['new_tokens_per_second']:.1f} |")
    ratios = [f"{before[name] / after[name]:.2f}" for name in ("p50_ms", "last_ms")]
    lines += ["", f"64 tokens / measured: {ratios[0]} (p50), {ratios[1]} (last)."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, prints the table, and writes it with all numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine", type=Path)
    parser.add_argument("--concurrency", type=int, default=32, help="prompts at once, and rows")
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--port", type=int, default=18300, help="this one and the five after it are used")
    parser.add_argument("--report-dir", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    options = parser.parse_args()
    requests, loads = story_requests(options.requests, options.max_tokens), []
    with ExitStack() as stack:
        configs = serve_configs(options).items()
        models = {name: stack.enter_context(served_models(config)) for name, config in configs}
        for repeat in range(options.repeats):
            for name in list(models)[:: -1 if repeat % 2 else 1]:
                loads.append(measure(name, models[name], requests, options.concurrency))
    shares = [load["others_share"] for load in loads]
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "engine": options.engine.name,
        "threads": options.threads,
        "concurrency": options.concurrency,
        "repeats": options.repeats,
        "others_share": [round(median(shares), 3), max(shares)],
        "same_texts": len({tuple(load.pop("texts")) for load in loads}) == 1,
        "medians": table(loads),
        "loads": loads,
    }
    name = f"call-sizes-{options.engine.name}-{report['date']}"
    write_receipt(options.report_dir, name, report, markdown(report))
    sys.stdout.write(markdown(report))


if __name__ == "__main__":
    main()
