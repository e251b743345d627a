"""`r1trt plugins check`, `bench` and `report`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from r1trt.cli.options import FILE, UnicodePath, json_option, output_option
from r1trt.cli.output import print_result
from r1trt.plugin_checks.stages import BUILD, CHECKS, MAX_SEED, TIME

if TYPE_CHECKING:
    from r1trt.plugin_checks.run import RunConfig

Command = TypeVar("Command", bound=Callable[..., Any])

STAGES = (BUILD, *CHECKS)
TIME_BUDGET_S = 570.0  # a little less than ten minutes


RUN_OPTIONS = (
    click.option(
        "--time-budget",
        type=float,
        default=TIME_BUDGET_S,
        show_default=True,
        metavar="SECONDS",
        help="Stop after this time; the same command then goes on where it ended.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0, max=MAX_SEED),
        metavar="N",
        help="Seed of all random numbers; default: the receipt's, else a fresh one.",
    ),
    click.option(
        "--receipt",
        type=UnicodePath(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Written after each step, continued by the next run; default: one in the cache.",
    ),
    click.option(
        "--plugin-library",
        type=FILE,
        metavar="FILE",
        help="The library to check; default: what r1trt build would take, else a new one.",
    ),
    output_option("none; the page is printed alone"),
    click.option("--quick", is_flag=True, help="Few cases and rows."),
    click.option(
        "--only",
        multiple=True,
        metavar="TEXT",
        help="Only cases and rows whose name has this text; may be repeated.",
    ),
    click.option("--again", is_flag=True, help="Run stages that are finished once more."),
    click.option("--host", is_flag=True, help="Run the kernels on the CPU, without times."),
)


def run_options(command: Command) -> Command:
    """Adds what `check` and `bench` have in common."""
    for option in reversed(RUN_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.option(
    "--stage", "stages", multiple=True, type=click.Choice(STAGES), help="Only this stage; may be repeated."
)
@run_options
@click.option("--sm", type=int, metavar="SM", help="Compile for this GPU alone; with --stage build.")
@json_option
def check(stages: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Check the plugins' kernels on this machine's GPU, against their definitions in FP64.

    Exits with 4 when the time ended first: run it again to go on.
    """
    from r1trt.plugin_checks.run import RunConfig

    return _run(RunConfig(stages=stages or STAGES, **options), as_json=as_json)


@click.command()
@run_options
@json_option
def bench(as_json: bool, **options: Any) -> int:
    """Time the plugins' kernels and their peers on this machine's GPU; needs torch.

    Exits with 0 whether aims are met or not, and with 4 when the time ended first: run it again to go on.
    """
    from r1trt.plugin_checks.run import RunConfig

    return _run(RunConfig(stages=(BUILD, TIME), **options), as_json=as_json)


@click.command()
@click.argument("receipt", type=FILE, metavar="RECEIPT")
@output_option("none; the page is printed alone")
@json_option
def report(receipt: Path, output: Path | None, as_json: bool) -> None:
    """Write the page of a receipt of `check` and `bench` again."""
    from r1trt.plugin_checks.receipt import read_receipt
    from r1trt.plugin_checks.report import markdown, publish

    found = read_receipt(receipt)
    paths = [] if output is None else publish(found, output)
    result = {"receipt": str(receipt), "published": [str(path) for path in paths]}
    print_result(result, [markdown(found), *map(str, paths)], as_json=as_json)


def _run(config: RunConfig, *, as_json: bool) -> int:
    """Runs the stages, prints what came of them, and returns the exit code."""
    from r1trt.plugin_checks.run import run_checks

    outcome = run_checks(config, lambda text: click.echo(text, err=True))
    result = {
        "receipt": str(outcome.receipt.path),
        "published": [str(path) for path in outcome.published],
        "failures": outcome.failures,
        "unfinished": outcome.unfinished,
    }
    print_result(result, [outcome.page, *map(str, outcome.published)], as_json=as_json)
    if outcome.failures:
        click.echo("\n  ".join([f"{len(outcome.failures)} failed:", *outcome.failures]), err=True)
    elif outcome.unfinished:
        click.echo(f"not finished: {', '.join(outcome.unfinished)}; run it again to go on", err=True)
    return outcome.exit_code
