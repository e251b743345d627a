"""Measures the article's claims, a row of docs/claims.md each.

    python scripts/claims --row hla-recall --row temperature
    python scripts/claims                                     # all rows

A finished run stays in --work-dir and is not repeated, so that a killed command goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[0] = str(REPOSITORY / "scripts")  # instead of this folder, which Python puts there

import torch  # noqa: E402

from claims.row import Options, Row, write_receipts  # noqa: E402
from claims.runs import RunStore  # noqa: E402
from r1trt.errors import R1TrtError  # noqa: E402

# Where runs and receipts go; reduced ones lie apart, for they would replace those that say something.
RUNS, RECEIPTS = REPOSITORY / "build" / "claims", REPOSITORY / "docs" / "benchmarks"
REDUCED = RUNS / "reduced"
# Name of a row, and the module that defines it as `ROW`.
ROWS: dict[str, str] = {
    "hla-recall": "claims.hla_recall",
    "hla-language": "claims.hla_language",
    "temperature": "claims.temperature",
    "latency": "claims.latency",
    "precision-schedule": "claims.precision_schedule",
    "recomputation": "claims.recomputation",
    "tiles": "claims.tiles",
    "adaptive-k": "claims.adaptive_k",
    "equal-loss": "claims.equal_loss",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    runs, receipts = (REDUCED, REDUCED) if options.reduced else (RUNS, RECEIPTS)
    store = RunStore(directory=options.work_dir or runs, finished_only=options.finished_only)
    variants = tuple(options.variant or ())
    asked = Options(store=store, seeds=options.seeds, reduced=options.reduced, variants=variants)
    try:
        for name in options.row or ROWS:
            row: Row = import_module(ROWS[name]).ROW
            page = write_receipts(row, asked, options.output or receipts)
            print(page or f"{name}: nothing has run, nothing is written", flush=True)
    except R1TrtError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="claims", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", action="append", choices=list(ROWS), help="default: all; repeat for several")
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="seeds of each variant, from 0 on; default: 3"
    )
    parser.add_argument("--variant", action="append", help="of a row that trains; default: all")
    parser.add_argument("--reduced", action="store_true", help="sizes that take seconds and show nothing")
    parser.add_argument("--finished-only", action="store_true", help="report what has run, and start nothing")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; default: 1")
    parser.add_argument(
        "--work-dir",
        type=Path,
        help="finished runs; default: build/claims, with --reduced its folder reduced",
    )
    parser.add_argument(
        "-o", "--output", type=Path,
        help="receipts, which replace those that are there; default: docs/benchmarks, or as above",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
