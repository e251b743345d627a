"""Fine-tunes a model for FP8 by each loss with several seeds, and measures what it recovers.

    python scripts/benchmark_finetune.py

Beside the two losses stands the same training without any quantization: what the text alone does. Each
fine-tuned checkpoint stays in WORK, and what is there already is not trained again. JSON and a page lie in
DIR then.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from machine import machine
from receipts import write_receipt

from r1trt.finetune.config import BATCH, LEARNING_RATE, FinetuneConfig, Loss, Precision
from r1trt.finetune.finetune import REPORT_FILE, finetune_checkpoint

REPOSITORY = Path(__file__).resolve().parent.parent
CHECKPOINT = REPOSITORY / "tests" / "data" / "r1_asa_bytes"
KINDS: tuple[tuple[Precision, Loss], ...] = (
    ("fp8", "distillation"),
    ("fp8", "next-token"),
    ("bf16", "next-token"),
)
_SECONDS = "seconds.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    rows = list(_rows(options))
    document = {
        "model": options.checkpoint.resolve().name,
        "day": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "threads": options.threads,
        "rows": rows,
    }
    print(_write(options.output, document))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=CHECKPOINT)
    parser.add_argument("--text", type=Path, help="to train on; default: the package's")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--heldout-tokens", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=REPOSITORY / "build" / "finetune")
    parser.add_argument("-o", "--output", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    return parser


def _rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    names = ("text", "epochs", "seq_len", "batch", "learning_rate", "heldout_tokens", "threads")
    shared = {name: getattr(options, name) for name in names}
    for (precision, loss), seed in product(KINDS, range(options.seeds)):
        output = options.work / f"{options.checkpoint.resolve().name}-{precision}-{loss}-{seed}"
        timed = output / _SECONDS
        if not timed.exists():
            config = FinetuneConfig(
                checkpoint=options.checkpoint,
                output=output,
                precision=precision,
                loss=loss,
                seed=seed,
                **shared,
            )
            begin = time.perf_counter(), time.process_time()
            finetune_checkpoint(config)
            wall, processor = time.perf_counter() - begin[0], time.process_time() - begin[1]
            timed.write_text(json.dumps({"wall": round(wall), "processor": round(processor)}))
        report = json.loads((output / REPORT_FILE).read_text(encoding="utf-8"))
        print(output.name, _cells([report]), flush=True)
        yield {**report, "seconds": json.loads(timed.read_text(encoding="utf-8"))}


def _write(output: Path, document: Mapping[str, Any]) -> Path:
    name = f"finetune-{document['model'].replace('_', '-')}-{document['day']}"
    return write_receipt(output, name, document, page(document))


def page(document: Mapping[str, Any]) -> str:
    """The figures as Markdown: means over the seeds, and the least and the most of them."""
    rows = document["rows"]
    first, seen = rows[0], document["machine"]
    plain = first["accuracy"]["calibrated"]
    seconds = sum(row["seconds"]["processor"] for row in rows)
    increase = plain["perplexity_increase"]
    lines = [
        f"# Fine-tuning of {document['model']} for FP8, {document['day']}",
        "",
        f"`python scripts/benchmark_finetune.py`, {seconds} s of processor time, {document['threads']} "
        f"threads on {seen['cores']} cores of an {seen['cpu']}.",
        f"{first['steps']} steps of {first['batch']} windows of {first['window']} tokens, {first['epochs']} "
        f"epochs of the text '{first['text']}', learning rate {first['learning_rate']:g}.",
        f"Held out: {first['accuracy']['tokens']} tokens, on which the unquantized model has a perplexity "
        f"of {first['accuracy']['perplexity']:.4f}. FP8 with the scales of a",
        f"calibration: {increase['mean']:+.3%} (95 % interval {increase['low']:+.3%} to "
        f"{increase['high']:+.3%}), "
        f"KL {plain['kl']['mean']:.5f} nats, agreement {plain['agreement']:.2%}.",
        "Means over the seeds, and in parentheses the least and the most of them.",
        "",
        "| products | loss | seeds | perplexity | KL, nats | agreement | of KL recovered | of perplexity |",
        "|---|---|---:|---|---|---|---|---|",
    ]
    for precision, loss in dict.fromkeys((row["precision"], row["loss"]) for row in rows):
        own = [row for row in rows if (row["precision"], row["loss"]) == (precision, loss)]
        lines.append(f"| {precision.upper()} | {loss} | {len(own)} | {' | '.join(_cells(own))} |")
    return "\n".join([*lines, ""])


def _cells(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    accuracy = [row["accuracy"] for row in rows]
    tuned = [item["tuned"] for item in accuracy]
    quantized = rows[0]["precision"] == "fp8"
    return [
        _spread([item["perplexity_increase"]["mean"] for item in tuned], "+.3%"),
        _spread([item["kl"]["mean"] for item in tuned], ".5f"),
        _spread([item["agreement"] for item in tuned], ".2%"),
        _spread([item["recovered_kl"] for item in accuracy], ".0%") if quantized else "",
        _spread([item["recovered_perplexity"] for item in accuracy], ".0%") if quantized else "",
    ]


def _spread(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "nothing was lost"
    if len(known) == 1:
        return f"{known[0]:{form}}"
    return f"{mean(known):{form}} ({min(known):{form}} to {max(known):{form}})"


if __name__ == "__main__":
    sys.exit(main())
