"""Measures serving SmolLM2-135M on a CPU: our server, `r1trt generate`'s loop alone, llama.cpp's server.

All have the same weights, in FP32 or in as many bits, read the same prompt tokens and answer greedily. Both
servers run for the whole benchmark; loads alternate between them, each on a machine that is otherwise quiet.
Throughput counts new tokens only.

    python scripts/benchmark_serving.py --checkpoint engines/checkpoints/SmolLM2
    python scripts/benchmark_serving.py --checkpoint engines/checkpoints/SmolLM2 --precision int8
    python scripts/benchmark_serving.py --checkpoint engines/checkpoints/SmolLM2 --repeats 1 --no-peer
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from load_generator import Request, summary
from machine import machine, tree_bytes
from processes import OthersShare, wait_for_quiet
from serving_contenders import (
    CAPACITY,
    CONCURRENCIES,
    OURS,
    PEER_KINDS,
    Contender,
    make_engine,
    our_loop,
    our_server,
    peer_server,
)
from serving_report import markdown, medians, plot, ratios, same_answers

from r1trt.cache import cache_directory
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir
from r1trt.triton_server.environment import SERVER_PACKAGE

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = cache_directory() / "benchmark-serving"
# A load is undisturbed when other processes took no more than this of the processors.
QUIET_SHARE = 0.1
HEROES = (
    "an old fisherman", "a shy dragon", "two sisters", "a lost robot", "a village doctor", "a young queen",
    "a clever fox", "a night watchman", "a retired pilot", "a blind musician", "a lighthouse keeper",
    "a baker",
)  # fmt: skip
PLACES = (
    "a frozen harbour", "the desert", "an empty city", "a mountain village", "the bottom of the sea",
    "a train that never stops", "a castle in the clouds", "a library at night",
)  # fmt: skip


def story_requests(count: int, max_tokens: int) -> list[Request]:
    """Requests for long texts, so that nearly every answer has `max_tokens`; the first 96 all differ."""
    pairs = itertools.cycle(itertools.product(PLACES, HEROES))
    prompts = (f"Tell me a long story about {hero} in {place}." for place, hero in pairs)
    return [Request(prompt=prompt, max_tokens=max_tokens) for prompt in itertools.islice(prompts, count)]


def tokens_of(tokenizer: TextTokenizer, requests: Sequence[Request]) -> dict[str, list[int]]:
    """Token ids of every prompt, chat template included."""
    prompts = {request.prompt for request in requests}
    return {text: tokenizer.encode_chat([{"role": "user", "content": text}]) for text in prompts}


def measure(
    contender: Contender, requests: Sequence[Request], concurrency: int, patience: float
) -> dict[str, Any]:
    """Puts one load on one contender, when others leave the processors alone or `patience` (seconds) is over.

    Raises:
        RuntimeError: A request failed.
    """
    wait_for_quiet(QUIET_SHARE, patience)
    load_average, others = os.getloadavg()[0], OthersShare()
    outcomes = contender.load(requests, concurrency)
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if errors:
        raise RuntimeError(f"{contender.name} at concurrency {concurrency}: {errors[0]}")
    result = {
        "contender": contender.name,
        "concurrency": concurrency,
        "others_share": others.share(),
        "load_average_before": round(load_average, 2),
        **summary(outcomes),
        "texts": sorted(outcome.text for outcome in outcomes),
    }
    print(
        f"{contender.name}, {concurrency} at a time: {result['new_tokens_per_second']} tokens/s, "
        f"first token {result['time_to_first_token_ms']['p50']} ms, "
        f"others took {result['others_share']:.0%} of the processors",
        flush=True,
    )
    return result


def run_all(
    contenders: Sequence[Contender], requests: Sequence[Request], repeats: int, seconds: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Goes round all contenders and concurrencies, beginning with another one each time.

    A round leaves out what was measured `repeats` times undisturbed. Rounds end when nothing is left, or when
    the time is over and everything was measured at all.

    Returns:
        The `repeats` least disturbed measurements of each, and the others.
    """
    for contender in contenders:
        contender.load(requests[:2], 2)
    deadline = time.monotonic() + seconds
    cells: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for turn in itertools.count():
        first = turn % len(contenders)
        before = sum(map(len, cells.values()))
        for concurrency, count in CONCURRENCIES.items():
            for contender in (*contenders[first:], *contenders[:first]):
                done = cells.setdefault((concurrency, contender.name), [])
                if concurrency in contender.concurrencies and _is_wanted(done, repeats, deadline):
                    patience = max(deadline - time.monotonic(), 0.0)
                    done.append(measure(contender, requests[:count], concurrency, patience))
        if sum(map(len, cells.values())) == before:
            break
    ordered = [sorted(done, key=lambda result: result["others_share"]) for done in cells.values()]
    kept = [result for done in ordered for result in done[:repeats]]
    return kept, [result for done in ordered for result in done[repeats:]]


def _is_wanted(done: Sequence[dict[str, Any]], repeats: int, deadline: float) -> bool:
    undisturbed = sum(result["others_share"] <= QUIET_SHARE for result in done)
    return undisturbed < repeats and (not done or time.monotonic() < deadline)


def versions(options: argparse.Namespace) -> dict[str, str]:
    """What was measured."""
    requirements = (REPOSITORY / "r1trt/triton_server/serving-requirements.txt").read_text().splitlines()
    result = {
        "server": f"Triton of {SERVER_PACKAGE}",
        "serving environment": ", ".join(line for line in requirements if not line.startswith("#")),
    }
    if options.peer:
        from llama_build import CMAKE_OPTIONS, PACKAGE, llama_program
        from llama_server import llama_server_version

        version = llama_server_version(llama_program(options.peer_env, "llama-server"))
        result["llama-server"] = f"of {PACKAGE}: {version}; {' '.join(CMAKE_OPTIONS)}"
    return result


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """Makes what is needed, measures, and returns the report."""
    engine = make_engine(options.checkpoint.resolve(), options.work_dir, options.rows, options.precision)
    tokenizer = tokenizer_from_dir(engine)
    requests = story_requests(max(CONCURRENCIES.values()), options.max_tokens)
    prompt_ids = tokens_of(tokenizer, requests)
    lengths = [len(ids) for ids in prompt_ids.values()]
    with ExitStack() as stack:
        contenders = [
            stack.enter_context(our_server(engine, options.port, options.threads)),
            stack.enter_context(our_loop(engine, tokenizer, prompt_ids, options.threads)),
        ]
        if options.peer:
            contenders.append(stack.enter_context(peer_server(options, prompt_ids)))
        results, discarded = run_all(contenders, requests, options.repeats, options.seconds)
    rows, same = medians(results), same_answers(results, OURS)
    shares = [result["others_share"] for result in results]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "precision": options.precision,
        "threads": options.threads,
        "rows": options.rows,
        "capacity": CAPACITY,
        "max_tokens": options.max_tokens,
        "prompt_tokens": [min(lengths), max(lengths)],
        "repeats": options.repeats,
        "others_share": [round(median(shares), 3), max(shares)],
        "engine_bytes": tree_bytes(engine),
        "versions": versions(options),
        "medians": rows,
        "ratios": ratios(rows, OURS),
        "same_answers": same,
        "measurements": _without_texts(results),
        "discarded": _without_texts(discarded),
    }


def _without_texts(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in result.items() if key != "texts"} for result in results]


def main() -> None:
    """Parses the command line, measures, and writes table, numbers and picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="what scripts/make_smollm2.py wrote")
    parser.add_argument("--precision", choices=list(PEER_KINDS), default="fp32", help="of the weights")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--seconds",
        type=float,
        default=1200.0,
        help="time to wait for quiet, and to repeat loads that other processes disturbed",
    )
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, default=max(CONCURRENCIES))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--port", type=int, default=18200, help="this one and the three after it are used")
    parser.add_argument("--work-dir", type=Path, default=CACHE, help="place for the engine")
    parser.add_argument("--peer-env", type=Path, default=CACHE / "peers", help="place for the peer")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="leave the peer out")
    parser.add_argument("--report-dir", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    options = parser.parse_args()
    report = benchmark(options)
    options.report_dir.mkdir(parents=True, exist_ok=True)
    path = options.report_dir / f"serving-{options.precision}-{report['date']}"
    path.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    text = markdown(report)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    plot(report["medians"], path.with_suffix(".png"))
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
