"""Prunes a model by each criterion, scored on three texts, and measures what is left on text that none reads.

    python scripts/benchmark_pruning.py

25 % and 50 % of every layer's experts are removed by REAP, by frequency and at random. The three calibration
sets are thirds of the package's documents, each of prose, reference entries, manuals, code and conversations;
a random removal takes the set's number as its seed. JSON and a page lie in DIR then.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from machine import machine
from receipts import write_receipt

from r1trt.calibrate.options import MIN_TOKENS
from r1trt.data import CALIBRATION
from r1trt.evaluate.compare import compare_models
from r1trt.evaluate.models import model_from_session
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import load_export
from r1trt.prune.accuracy import FIGURES
from r1trt.prune.config import CRITERIA, PruneConfig
from r1trt.prune.prune import prune_checkpoint
from r1trt.prune.result import PruneResult
from r1trt.prune.texts import texts_of_pruning
from r1trt.runtime.graph_session import session_from_export

REPOSITORY = Path(__file__).resolve().parent.parent
CHECKPOINT = REPOSITORY / "tests" / "data" / "r1_asa_bytes"
SHARES, SETS = (0.25, 0.5), 3
WHOLE = "whole"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One pruned model.

    Attributes:
        share: Of every layer's experts that were removed.
        calibration: Number of the calibration set.
        config: The pruning.
        result: What it did.
    """

    share: float
    calibration: int
    config: PruneConfig
    result: PruneResult

    @property
    def name(self) -> str:
        """Tells it from the others."""
        return f"{self.share:.0%} {self.config.criterion} {self.calibration}"

    def row(self, accuracy: Mapping[str, Any]) -> dict[str, Any]:
        """Its figures, with those on held-out text."""
        choices = self.result.choices
        return {
            "share": self.share,
            "criterion": self.config.criterion,
            "calibration": self.calibration,
            "removed": {choice.scores.layer: choice.removed for choice in choices},
            "removed_tokens": mean(choice.removed_tokens for choice in choices),
            "removed_contribution": mean(choice.removed_contribution for choice in choices),
            "bytes": self.result.after.bytes,
            "accuracy": {name: accuracy[name] for name in FIGURES},
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        cases = list(_cases(options, Path(folder)))
        rows = _measured(options, cases, Path(folder))
    document = {
        "model": options.checkpoint.resolve().name,
        "day": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "seconds": round(time.perf_counter() - started),
        "calibration_tokens": options.calibration_tokens,
        "rows": rows,
    }
    print(_write(options.output, document))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=CHECKPOINT)
    parser.add_argument("--calibration-tokens", type=int, default=10240, help="of each set")
    parser.add_argument("--heldout-tokens", type=int, default=32768)
    parser.add_argument("-o", "--output", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    return parser


def _cases(options: argparse.Namespace, folder: Path) -> Iterator[Case]:
    for number, text in enumerate(_calibration_sets(folder)):
        for share, criterion in product(SHARES, CRITERIA):
            config = PruneConfig(
                checkpoint=options.checkpoint,
                output=folder / f"{criterion}-{share}-{number}",
                remove=share,
                criterion=criterion,
                seed=number if criterion == "random" else None,
                calibration=text,
                calibration_tokens=options.calibration_tokens,
                heldout_tokens=MIN_TOKENS,  # all are measured together
            )
            case = Case(share=share, calibration=number, config=config, result=prune_checkpoint(config))
            print(case.name, flush=True)
            yield case


def _measured(options: argparse.Namespace, cases: Sequence[Case], folder: Path) -> list[dict[str, Any]]:
    """Rows by share and criterion; the whole model and all others read the text side by side, once."""
    checkpoints = {WHOLE: options.checkpoint, **{case.name: case.config.output for case in cases}}
    exports = {
        name: load_export(export_checkpoint(ExportConfig(checkpoint=path, output=folder / "exports" / name)))
        for name, path in checkpoints.items()
    }
    config = replace(cases[0].config, heldout_tokens=options.heldout_tokens)
    windows = texts_of_pruning(config, exports[WHOLE]).heldout
    with ExitStack() as opened:
        sessions = {
            name: opened.enter_context(closing(session_from_export(export.artifact, threads=1)))
            for name, export in exports.items()
        }
        models = {name: model_from_session(session) for name, session in sessions.items()}
        pairs = [(WHOLE, case.name) for case in cases]
        figures = compare_models(models, windows, pairs, _progress)
    return [
        case.row(figures[WHOLE, case.name].logits.to_dict())
        for share, criterion in product(SHARES, CRITERIA)
        for case in cases
        if (case.share, case.config.criterion) == (share, criterion)
    ]


def _progress(phase: str, done: int, total: int) -> None:
    if done % 16 == 0:
        print(f"{phase}: {done} of {total}", flush=True)


def _calibration_sets(folder: Path) -> list[Path]:
    documents = CALIBRATION.read_text(encoding="utf-8").splitlines()
    paths = []
    for number in range(SETS):
        paths.append(folder / f"calibration-{number}.jsonl")
        paths[-1].write_text("\n".join(documents[number::SETS]), encoding="utf-8")
    return paths


def _write(output: Path, document: Mapping[str, Any]) -> Path:
    name = f"pruning-{document['model'].replace('_', '-')}-{document['day']}"
    return write_receipt(output, name, document, page(document))


def page(document: Mapping[str, Any]) -> str:
    """The figures as Markdown: means over the calibration sets, and the least and the most of them."""
    rows, first = document["rows"], document["rows"][0]["accuracy"]
    seen = document["machine"]
    lines = [
        f"# Pruning of {document['model']}, {document['day']}",
        "",
        f"`python scripts/benchmark_pruning.py`, {document['seconds']} s on {seen['cores']} cores of an "
        f"{seen['cpu']}. Scored on {document['calibration_tokens']} tokens",
        f"of each of {SETS} calibration sets; {first['tokens']} tokens held out, on which the whole model "
        f"has a perplexity of {first['perplexity_reference']:.4f}.",
        "Means over the sets, and in parentheses the least and the most of them.",
        "",
        "| removed | criterion | perplexity | KL, nats | agreement | tokens of the removed "
        "| their contribution | the same in all sets |",
        "|---:|---|---|---|---|---|---|---:|",
    ]
    pairs = dict.fromkeys((row["share"], row["criterion"]) for row in rows)
    for share, criterion in pairs:
        own = [row for row in rows if (row["share"], row["criterion"]) == (share, criterion)]
        lines.append(_line(own))
    return "\n".join([*lines, ""])


def _line(rows: Sequence[Mapping[str, Any]]) -> str:
    accuracy = [row["accuracy"] for row in rows]
    cells = [
        f"{rows[0]['share']:.0%}",
        rows[0]["criterion"],
        _spread([item["perplexity_increase"] for item in accuracy], "+.1%"),
        _spread([item["kl_mean"] for item in accuracy], ".3f"),
        _spread([item["agreement"] for item in accuracy], ".1%"),
        _spread([row["removed_tokens"] for row in rows], ".1%"),
        _spread([row["removed_contribution"] for row in rows], ".1%"),
        f"{shared(rows):.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float], form: str) -> str:
    return f"{mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def shared(rows: Sequence[Mapping[str, Any]]) -> float:
    """The part of the removed experts that every calibration set removes."""
    removed = [
        {(layer, expert) for layer, experts in row["removed"].items() for expert in experts} for row in rows
    ]
    return len(set.intersection(*removed)) / len(removed[0])


if __name__ == "__main__":
    sys.exit(main())
