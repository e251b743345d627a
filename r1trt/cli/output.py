"""What the commands print: one result on stdout, progress and messages on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from r1trt.errors import R1TrtError
from r1trt.lifetime.ending import at_ending

Progress = Callable[[str, int, int], None]
"""Called as `progress(phase, done, total)`; `total` 0 means that the amount of work is unknown."""

PLAIN_INTERVAL_S = 5.0


def print_result(result: Mapping[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    """Prints a command's result: the mapping as one line of JSON, or the lines."""
    if as_json:
        click.echo(json.dumps(result, default=str, allow_nan=False))
    else:
        click.echo("\n".join(lines))


def print_error(error: R1TrtError, *, as_json: bool) -> None:
    """Prints an expected failure, on stderr, or as the result on stdout with `as_json`."""
    if as_json:
        content = {
            "type": type(error).__name__,
            "message": error.message,
            **error.details,
            "exit_code": error.exit_code,
        }
        click.echo(json.dumps({"error": content}))
    else:
        click.secho("error: ", fg="red", bold=True, nl=False, err=True)
        click.echo("\n".join(map(printable, str(error).splitlines())), err=True)


def fact_lines(facts: Mapping[str, Any]) -> list[str]:
    """Names and values, one a line, aligned and indented."""
    width = max(map(len, facts), default=0)
    return [f"  {name.ljust(width)}  {printable(value)}" for name, value in facts.items()]


def printable(value: object) -> str:
    """A value as text; what would control the terminal, as a name in a hostile file may, is replaced."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value))


def table_lines(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Aligns rows under a header; numbers to the right, everything else to the left."""
    texts = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *texts, strict=True)]
    numeric = [
        bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))
    ]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    return [line(header), line(["-" * width for width in widths]), *map(line, texts)]


class _PlainProgress:
    """One line for each new phase, and one now and then within phases that take long."""

    def __init__(self) -> None:
        self._phases: set[str] = set()
        self._printed_at = 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase in self._phases and now - self._printed_at < PLAIN_INTERVAL_S:
            return
        self._phases.add(phase)
        self._printed_at = now
        amount = f" {done}/{total}" if total > 1 else ""
        click.echo(f"r1trt: {phase}{amount}", err=True)


@contextmanager
def progress_reporter() -> Iterator[Progress]:
    """A progress bar on a terminal, plain lines elsewhere; both on stderr.

    Yields:
        The callback that long work takes.
    """
    if not sys.stderr.isatty():
        yield _PlainProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    show_cursor = Console(stderr=True).show_cursor
    with (
        at_ending(show_cursor),
        RichProgress(*columns, console=Console(stderr=True), transient=True) as bars,
    ):
        tasks: dict[str, Any] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase)
            finished = 0 < total <= done
            bars.update(tasks[phase], completed=done, total=total or None, visible=not finished)

        yield report
