"""`r1trt inspect`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from r1trt.cli.options import UnicodePath, json_option
from r1trt.cli.output import fact_lines, print_result, table_lines
from r1trt.text import size_text

if TYPE_CHECKING:
    from r1trt.inspect.summary import Summary

EPILOG = """
\b
Examples:
  r1trt inspect engines/SmolLM2/ada-fp8
  r1trt inspect model.safetensors --json
"""


@click.command(epilog=EPILOG, short_help="Summarize a checkpoint, export, build or file.")
@click.argument("path", type=UnicodePath(exists=True, path_type=Path))
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Summarize PATH: a checkpoint, an export, a build, or a .onnx, .safetensors or precision.yaml file."""
    from r1trt.inspect.path import summary_of_path

    summary = summary_of_path(path)
    print_result(asdict(summary), list(summary_lines(summary)), as_json=as_json)


def summary_lines(summary: Summary) -> Iterator[str]:
    """A summary as lines of text."""
    yield f"{summary.kind}: {summary.path}"
    yield from fact_lines({name: _readable(name, value) for name, value in summary.facts.items()})
    for table in summary.tables:
        rows = [
            [_readable(name, cell) for name, cell in zip(table.header, row, strict=True)]
            for row in table.rows
        ]
        yield from ("", f"{table.title}:", *table_lines(table.header, rows))


def _readable(name: str, value: Any) -> Any:
    return size_text(value) if name.endswith("bytes") and isinstance(value, int) else value
