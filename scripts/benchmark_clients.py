r"""Benchmark programs of others on OpenAI's interface: AIPerf and GuideLLM, and our own load beside them.

    python3.11 -m venv AIPERF && AIPERF/bin/pip install aiperf
    python3.11 -m venv GUIDELLM && GUIDELLM/bin/pip install guidellm
    python scripts/benchmark_clients.py engines/SmolLM2/cpu-int8 --aiperf AIPERF/bin/aiperf \
        --guidellm GUIDELLM/bin/guidellm -o docs/benchmarks

Each sends as many chats, of random words and about as many tokens, and keeps as many at a time, in turn. They
count tokens with the build's own tokenizer, for AIPerf's built-in one has to be downloaded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmark_openai import sender, server
from load_generator import closed_load, requests_of_mix, summary
from machine import machine
from processes import OthersShare
from receipts import write_receipt

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Load:
    """What every client sends.

    Attributes:
        engine: Build directory, for its tokenizer.
        url: Of the interface, without /v1.
        model: Its name there.
        concurrency: Requests at a time.
        requests: Of all.
        prompt_tokens: Of a prompt, without the chat template.
        new_tokens: Of an answer.
    """

    engine: Path
    url: str
    model: str
    concurrency: int
    requests: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True, kw_only=True)
class Reported:
    """What a client says of it, in its own terms."""

    client: str
    requests: int
    errors: int
    new_tokens_per_second: float
    first_token_ms: float
    between_tokens_ms: float


def aiperf(program: Path, load: Load, folder: Path) -> Reported:
    """NVIDIA's AIPerf."""
    _run(
        program, "profile", "--model", load.model, "--url", load.url, "--endpoint-type", "chat",
        "--streaming", "--tokenizer", load.engine, "--concurrency", load.concurrency,
        "--request-count", load.requests, "--isl", load.prompt_tokens, "--osl", load.new_tokens,
        "--extra-inputs", "temperature:0", "--extra-inputs", "ignore_eos:true", "--ui", "none",
        "--artifact-dir", folder,
    )  # fmt: skip
    found = json.loads((folder / "profile_export_aiperf.json").read_text(encoding="utf-8"))
    return Reported(
        client="AIPerf " + found["aiperf_version"],
        requests=int(found["completed_request_count"]["avg"]),
        errors=len(found["error_summary"]),
        new_tokens_per_second=found["output_token_throughput"]["avg"],
        first_token_ms=found["time_to_first_token"]["p50"],
        between_tokens_ms=found["inter_token_latency"]["p50"],
    )


def guidellm(program: Path, load: Load, folder: Path) -> Reported:
    """GuideLLM, of the vLLM project."""
    report, backend = folder / "guidellm.json", f"kind=openai_http,target={load.url},model={load.model}"
    _run(
        program, "run", "--disable-console",
        "--backend", f"{backend},request_format=/v1/chat/completions",
        "--tokenizer", f"kind=hf_auto,model={load.engine}",
        "--profile", f"kind=concurrent,streams={load.concurrency}",
        "--constraint", f"kind=max_requests,count={load.requests}",
        "--data", f"kind=synthetic_text,prompt_tokens={load.prompt_tokens},output_tokens={load.new_tokens}",
        "--output", f"kind=json,path={report}",
    )  # fmt: skip
    found = json.loads(report.read_text(encoding="utf-8"))
    metrics = found["benchmarks"][0]["metrics"]
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return Reported(
        client="GuideLLM " + said.split()[-1],
        requests=metrics["request_totals"]["successful"],
        errors=metrics["request_totals"]["errored"],
        new_tokens_per_second=metrics["output_tokens_per_second"]["successful"]["mean"],
        first_token_ms=metrics["time_to_first_token_ms"]["successful"]["median"],
        between_tokens_ms=metrics["inter_token_latency_ms"]["successful"]["median"],
    )


def ours(load: Load, said: dict[str, Any], interface: str) -> Reported:
    """`load_generator.py`'s short chats."""

    async def run() -> dict[str, Any]:
        requests = requests_of_mix("short", load.requests, load.new_tokens)
        async with sender(interface, said) as send_one:
            return summary(await closed_load(send_one, requests, load.concurrency))

    found = asyncio.run(run())
    return Reported(
        client=f"load_generator.py, {interface}",
        requests=found["requests"] - found["errors"],
        errors=found["errors"],
        new_tokens_per_second=found["new_tokens_per_second"],
        first_token_ms=found["time_to_first_token_ms"]["p50"],
        between_tokens_ms=found["time_per_token_ms"]["p50"],
    )


def page(document: dict[str, Any]) -> str:
    """A table of the last round of each client."""
    rows = [
        f"| {row['client']} | {row['requests']} | {row['errors']} | {row['new_tokens_per_second']:.1f} "
        f"| {row['first_token_ms']:.0f} | {row['between_tokens_ms']:.1f} |"
        for row in document["reported"]
    ]
    load, here = document["load"], document["machine"]
    return "\n".join(
        [
            f"# OpenAI's interface and benchmark programs of others, {document['day']}",
            "",
            f"`scripts/benchmark_clients.py`: {document['model']}, {here['cpu']}, {here['cores']} cores, on "
            f"which server and clients run; others took {document['others_share']:.0%}. {load['requests']} "
            f"chats of {load['prompt_tokens']} tokens and the chat template, {load['new_tokens']} new "
            f"tokens, {load['concurrency']} at a time, in turn. Our own load has prompts of 42 to 47 tokens.",
            "",
            "| client | requests | errors | new tokens/s | first token, ms | between tokens, ms |",
            "|---|---:|---:|---:|---:|---:|",
            *rows,
            "",
            "Times are medians.",
            "",
        ]
    )


def _run(*command: object) -> None:
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"{command[0]} failed: {(ran.stderr or ran.stdout).strip()[-2000:]}")


def _reported(options: argparse.Namespace, said: dict[str, Any]) -> Iterator[Reported]:
    load = Load(
        engine=options.engine.resolve(),
        url=f"http://{said['openai']}",
        model=said["models"][0]["name"],
        concurrency=options.concurrency,
        requests=options.requests,
        prompt_tokens=options.prompt_tokens,
        new_tokens=options.new_tokens,
    )
    clients: list[tuple[Path | None, Callable[[Path, Load, Path], Reported]]] = [
        (options.aiperf, aiperf),
        (options.guidellm, guidellm),
    ]
    for program, client in clients:
        if program is not None:
            with TemporaryDirectory() as folder:
                yield client(program, load, Path(folder))
    yield from (ours(load, said, interface) for interface in ("openai", "grpc"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the clients; writes what they say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine", type=Path)
    parser.add_argument("--aiperf", type=Path)
    parser.add_argument("--guidellm", type=Path)
    parser.add_argument("--name", default="SmolLM2, INT8")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    options = parser.parse_args(arguments)
    with server(options.engine, options.threads) as said:
        others = OthersShare()
        reported = [asdict(one) for one in _reported(options, said)]
        share = others.share()
    load = {
        name: getattr(options, name) for name in ("concurrency", "requests", "prompt_tokens", "new_tokens")
    }
    document = {
        "model": options.name,
        "day": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "others_share": share,
        "load": load,
        "reported": reported,
    }
    write_receipt(options.output, f"openai-clients-{document['day']}", document, page(document))
    print(page(document))


if __name__ == "__main__":
    main()
