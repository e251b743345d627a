"""`r1trt prune`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from r1trt.calibrate.options import MIN_TOKENS
from r1trt.cli.options import (
    ENGINES,
    CheckpointPath,
    Command,
    Share,
    json_option,
    output_option,
    text_option,
)
from r1trt.cli.output import print_result, progress_reporter, table_lines
from r1trt.prune.config import CRITERIA, HELDOUT_TOKENS, SCORED_TOKENS, PruneConfig

if TYPE_CHECKING:
    from r1trt.prune.result import PruneResult

PLACE = ENGINES / "checkpoints"
EPILOG = """
\b
Examples:
  r1trt prune DeepSeek-V3 --remove 25% --calibration mine.jsonl --dry-run
  r1trt prune DeepSeek-V3 --keep 192 --calibration mine.jsonl -o DeepSeek-V3-192
"""


def _tokens_option(name: str, default: int, purpose: str) -> Callable[[Command], Command]:
    least = click.IntRange(min=MIN_TOKENS)
    return click.option(name, type=least, default=default, show_default=True, metavar="N", help=purpose)


@click.command(epilog=EPILOG, short_help="Remove the experts that matter least on a text.")
@click.argument("checkpoint", type=CheckpointPath(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--keep", type=click.IntRange(min=1), metavar="N", help="Experts that every layer keeps; or --remove."
)
@click.option("--remove", type=Share(), metavar="P%", help="Share of every layer's experts to remove.")
@click.option(
    "--criterion",
    type=click.Choice(CRITERIA),
    default=CRITERIA[0],
    show_default=True,
    help="Keep those that add most to a token, that most tokens take, or any.",
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of --criterion random; default: 0.")
@text_option("--calibration", "Text to score experts on")
@_tokens_option("--calibration-tokens", SCORED_TOKENS, "Tokens to score on, at most.")
@text_option("--heldout", "Text that accuracy is measured on, before and after")
@_tokens_option("--heldout-tokens", HELDOUT_TOKENS, "Tokens to measure accuracy on, at most.")
@click.option("--dry-run", is_flag=True, help="Score the experts, show the table, and write nothing.")
@output_option(f"{PLACE}/NAME-pruned, NAME being the checkpoint's")
@json_option
def prune(checkpoint: Path, output: Path | None, as_json: bool, **options: Any) -> None:
    """Write CHECKPOINT, a Hugging Face directory, without the experts that matter least on a text.

    Every layer keeps as many experts, and every group of them too. The result is a checkpoint, with
    pruning.json and pruning.html beside its weights.
    """
    from r1trt.prune.prune import prune_checkpoint

    config = PruneConfig(
        checkpoint=checkpoint, output=output or PLACE / f"{checkpoint.resolve().name}-pruned", **options
    )
    with progress_reporter() as progress:
        result = prune_checkpoint(config, progress)
    found = {"dry_run": config.dry_run, "path": str(config.output), **result.to_json()}
    print_result(found, _lines(result, config), as_json=as_json)


def _lines(result: PruneResult, config: PruneConfig) -> list[str]:
    header = ("layer", "removed experts", "% of tokens", "% of contributions")
    return [
        *table_lines(header, result.layer_rows),
        *result.summary(),
        *(f"CAUTION: {line}" for line in result.cautions),
        *(f"note: {line}" for line in result.notes),
        *_next(config),
    ]


def _next(config: PruneConfig) -> list[str]:
    if config.dry_run:
        return [f"nothing was written; the checkpoint would be in {config.output}"]
    export = shlex.join(["r1trt", "export", str(config.output)])
    return [f"report: {config.output / 'pruning.html'}", f"next: {export}"]
