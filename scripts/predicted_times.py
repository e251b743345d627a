"""Writes predicted times of the bench's rows, beside measured ones, into docs/gpu.md.

python scripts/predicted_times.py [--check | --row TEXT]

Measured times are those of the newest receipt of an H200 in docs/benchmarks; a row that it lacks, or has of
other kernels than the modelled ones, stays empty. `--check` writes nothing and exits with 1 if the table is
another one; `--row` prints every kernel of the rows whose names have the text.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1trt.errors import BuildError, ConfigError, R1TrtError
from r1trt.estimate.gpus import device_of_driver_name
from r1trt.plugin_checks.bench.aims import OURS
from r1trt.plugin_checks.bench.predicted.machine import H100, H200
from r1trt.plugin_checks.bench.predicted.rows import ROWS, predicted
from r1trt.plugin_checks.bench.row_times import Row

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENT = REPOSITORY / "docs" / "gpu.md"
RECEIPTS = REPOSITORY / "docs" / "benchmarks"
BEGIN, END = "<!-- written by scripts/predicted_times.py -->", "<!-- end of predicted times -->"
FAR = 0.25  # from the measured time

Receipt = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.row is not None:
            print("\n\n".join(map(details, rows_with(options.row))))
            return 0
        text = DOCUMENT.read_text(encoding="utf-8")
        new = with_table(text, table(newest_receipt(RECEIPTS)))
    except R1TrtError as error:
        print(error, file=sys.stderr)
        return 1
    if options.check:
        current = text == new
        print("up to date" if current else f"{DOCUMENT.name} has another table: run {Path(__file__).name}")
        return 0 if current else 1
    DOCUMENT.write_text(new, encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare with the table; write nothing")
    parser.add_argument("--row", help="print the kernels of rows with this in their names")
    return parser


def rows_with(text: str) -> list[Row]:
    """Rows whose names have the text.

    Raises:
        ConfigError: There is none.
    """
    if found := [row for row in ROWS if text in row.name]:
        return found
    names = "; ".join(row.name for row in ROWS)
    raise ConfigError("No row has such a name.", where="--row", found=text, expected=f"a part of: {names}")


def details(row: Row) -> str:
    """A row's kernels on an H200."""
    return f"{row.name}\n{predicted(row, H200)}"


def newest_receipt(folder: Path) -> Receipt | None:
    """The newest receipt with times of an H200."""
    receipts = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("operators_*.json")]
    return max(filter(_has_times, receipts), key=lambda content: str(content["started"]), default=None)


def _has_times(content: Receipt) -> bool:
    device = device_of_driver_name(content["gpu"] or "")
    return device is not None and device.name == H200.name and "time" in content["stages"]


def measured(receipt: Receipt | None) -> dict[str, float]:
    """Our microseconds by the rows' names."""
    if receipt is None:
        return {}
    times = {row["name"]: row["times"] for row in receipt["stages"]["time"]["rows"]}
    return {row.name: times[row.name][OURS]["us"] for row in ROWS if OURS in times.get(row.name, {})}


def table(receipt: Receipt | None) -> str:
    """The table as Markdown, and which receipt it is of."""
    times = measured(receipt)
    lines = [
        f"Measured on an H200: {receipt['started'][:10] if receipt else 'nothing yet'}.",
        "",
        "| row | H100 predicted | H200 predicted | measured | of it | bound |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in ROWS:
        h100, h200, ours = predicted(row, H100), predicted(row, H200), times.get(row.name)
        cells = [row.name, _us(h100.us), _us(h200.us), _us(ours), _ratio(h200.us, ours), h200.bound]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _us(us: float | None) -> str:
    return "" if us is None else f"{us:.1f}" if us < 100 else f"{us:,.0f}"


def _ratio(us: float, of: float | None) -> str:
    if of is None:
        return ""
    text = f"{us / of:.2f}"
    return f"**{text}**" if abs(us / of - 1) > FAR else text


def with_table(text: str, new: str) -> str:
    """The document with this table.

    Raises:
        BuildError: It has no place for one.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BuildError(
            "The document has no place for the table.", where=DOCUMENT, expected=f"{BEGIN} ... {END}"
        )
    return f"{before}{BEGIN}\n\n{new}\n\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main())
