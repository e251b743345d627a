"""What a conversation of ten turns costs with and without reuse of what stands in the cache.

    python scripts/benchmark_conversation.py engines/SmolLM2/cpu-int8

Two servers run side by side, one with --no-prefix-reuse, and are asked the same in turn, over OpenAI's
interface: each turn sends the whole conversation. Only one of them works at a time. Texts are compared letter
for letter.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmark_openai import send_chat, server
from load_generator import FILLER
from machine import machine
from processes import OthersShare
from receipts import write_receipt

REPOSITORY = Path(__file__).resolve().parent.parent
CONTENDERS: Mapping[str, Sequence[str]] = {"with": (), "without": ("--no-prefix-reuse",)}
TOPICS = ("a lighthouse", "the moon", "an old train", "a village market", "bees")
TURNS = (
    "Tell me something about {}.",
    "Why is that so?",
    "Give me an example of it.",
    "Who would disagree, and with what?",
    "Say the same in simpler words.",
    "What did people think of it a hundred years ago?",
    "Name three words that belong to it.",
    "What should I read next?",
    "Is there anything that you left out?",
    "Sum all of this up in one sentence.",
)


async def ask(said: Mapping[str, Any], messages: Sequence[Any], max_tokens: int) -> dict[str, Any]:
    """One turn at one server."""
    host, _, port = said["openai"].rpartition(":")
    asked = {"model": said["model_name"], "messages": messages, "max_tokens": max_tokens, "temperature": 0}
    outcome = await send_chat((host, int(port)), asked, time.perf_counter())
    if outcome.error:
        raise RuntimeError(outcome.error)
    return {
        "text": outcome.text,
        "prompt_tokens": outcome.prompt_tokens,
        "cached_tokens": outcome.cached_tokens,
        "first_token_ms": round(1000 * (outcome.token_times[0] - outcome.sent_at), 1),
    }


def converse(servers: Mapping[str, Any], topic: str, turn_of: int, max_tokens: int) -> list[dict[str, Any]]:
    """One conversation with all servers, which take turns at being asked first."""
    messages: list[dict[str, str]] = [{"role": "system", "content": 3 * FILLER}]
    turns = []
    for number, question in enumerate(TURNS, 1):
        messages.append({"role": "user", "content": question.format(topic)})
        order = list(servers) if (turn_of + number) % 2 else list(servers)[::-1]
        others = OthersShare()
        answers = {name: asyncio.run(ask(servers[name], messages, max_tokens)) for name in order}
        texts: set[str] = {answer.pop("text") for answer in answers.values()}
        turns.append(
            {
                "topic": topic,
                "turn": number,
                "others_share": others.share(),
                "same_text": len(texts) == 1,
                **answers,
            }
        )
        print(json.dumps(turns[-1]), file=sys.stderr, flush=True)
        messages.append({"role": "assistant", "content": max(texts)})
    return turns


def table(turns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians of each turn over all conversations."""
    rows = []
    for number in range(1, len(TURNS) + 1):
        same = [turn for turn in turns if turn["turn"] == number]
        times = {name: median(turn[name]["first_token_ms"] for turn in same) for name in CONTENDERS}
        rows.append(
            {
                "turn": number,
                "prompt_tokens": round(median(turn["with"]["prompt_tokens"] for turn in same)),
                "cached_tokens": round(median(turn["with"]["cached_tokens"] for turn in same)),
                **times,
                "ratio": round(times["without"] / times["with"], 2),
            }
        )
    return rows


def markdown(report: Mapping[str, Any]) -> str:
    """The report for a reader."""
    shares = report["others_share"]
    lines = [
        f"# Conversations of ten turns, {report['engine']}, {report['date']}",
        "",
        f"{report['machine']['cpu']}, {report['threads']} threads; medians of {report['conversations']}"
        f" conversations, both servers asked in turn. Others took {shares[0]:.0%} of the processors (median;"
        f" at most {shares[1]:.0%}), so times are those of a busy machine, and ratios of one run count."
        f" Texts that are letter for letter the same: {report['same_texts']} of {report['texts']}.",
        "",
        "| turn | prompt tokens | of them in the cache | first token, ms | without reuse | ratio |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for row in report["medians"]:
        numbers = [row[name] for name in ("turn", "prompt_tokens", "cached_tokens")]
        times = [f"{row['with']:,.0f}", f"{row['without']:,.0f}", f"{row['ratio']:.2f}"]
        lines.append(f"| {' | '.join(map(str, [*numbers, *times]))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, prints the table, and writes it with all numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine", type=Path)
    parser.add_argument("--conversations", type=int, default=3, choices=range(1, len(TOPICS) + 1))
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report-dir", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    options = parser.parse_args()
    with ExitStack() as stack:
        rows = ("--rows", str(options.rows))
        servers = {
            name: stack.enter_context(server(options.engine, options.threads, *rows, *more))
            for name, more in CONTENDERS.items()
        }
        converse(servers, "the weather", 0, 2)  # so that nothing is done for the first time
        turns = [
            turn
            for index, topic in enumerate(TOPICS[: options.conversations])
            for turn in converse(servers, topic, index, options.max_tokens)
        ]
    shares = [turn["others_share"] for turn in turns]
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "engine": options.engine.name,
        "threads": options.threads,
        "conversations": options.conversations,
        "max_tokens": options.max_tokens,
        "others_share": [round(median(shares), 3), max(shares)],
        "texts": len(turns),
        "same_texts": sum(turn["same_text"] for turn in turns),
        "medians": table(turns),
        "turns": turns,
    }
    name = f"conversation-{options.engine.name}-{report['date']}"
    write_receipt(options.report_dir, name, report, markdown(report))
    sys.stdout.write(markdown(report))


if __name__ == "__main__":
    main()
