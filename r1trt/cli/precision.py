"""`r1trt precision`: search a plan by layer, and look at plans."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from r1trt.arch import ARCHITECTURES
from r1trt.cli.options import (
    DIRECTORY,
    Share,
    device_option,
    json_option,
    output_option,
    text_option,
    threads_option,
)
from r1trt.cli.output import print_result, progress_reporter
from r1trt.cli.precision_views import bisect, diff, explain, show
from r1trt.errors import ConfigError

if TYPE_CHECKING:
    from r1trt.search.result import Point, SearchResult

OBJECTIVES = ("time", "bytes")
EPILOG = """
\b
Examples:
  r1trt precision search engines/SmolLM2 --arch ada --max-perplexity-increase 1%
  r1trt build engines/SmolLM2 --arch ada --plan engines/SmolLM2/ada-searched/plan.yaml
"""


@click.group()
def precision() -> None:
    """Search the precision of each layer, and look at precision plans."""


for _command in (show, diff, explain, bisect):
    precision.add_command(_command)


@precision.command(epilog=EPILOG, short_help="Find the cheapest plan under an accuracy budget.")
@click.argument("model", type=DIRECTORY)
@click.option("--arch", required=True, type=click.Choice(tuple(ARCHITECTURES)), help="What the plan is for.")
@click.option("--max-kl", type=float, metavar="NATS", help="Budget: mean KL divergence of the next token.")
@click.option(
    "--max-perplexity-increase", type=Share(), metavar="P%", help="Budget: relative increase of perplexity."
)
@click.option(
    "--minimize",
    type=click.Choice(OBJECTIVES),
    default="time",
    show_default=True,
    help="What is to be small.",
)
@device_option("one of --arch")
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Sequences at a time."
)
@click.option(
    "--prompt-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Of a timed request."
)
@click.option(
    "--new-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Of a timed request."
)
@text_option("--calibration", "Text to measure scales and to search on")
@text_option("--heldout", "Text that only the last measurement reads")
@click.option(
    "--screen-tokens", type=click.IntRange(min=256), default=512, show_default=True, help="For each choice."
)
@click.option(
    "--search-tokens", type=click.IntRange(min=256), default=4096, show_default=True, help="For whole plans."
)
@click.option(
    "--final-tokens", type=click.IntRange(min=256), default=16384, show_default=True, help="At the end."
)
@click.option(
    "--from-front", type=click.IntRange(min=1), metavar="N",
    help="Take this point of the front, 1 being the most accurate; needs no budget.",
)  # fmt: skip
@click.option(
    "--scores", is_flag=True, help="Also compute cheap scores, to see what they are worth; needs torch."
)
@threads_option()
@output_option("ARCH-searched in MODEL")
@json_option
def search(
    max_kl: float | None,
    max_perplexity_increase: float | None,
    batch: int,
    prompt_tokens: int,
    new_tokens: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the cheapest precision plan of MODEL, an export, that keeps an accuracy budget.

    Every choice of every group of layers is measured on text, an integer program combines them, and the
    best combinations are run as a whole. Writes plan.yaml for r1trt build --plan, search.json and
    report.html. A search that was cut off goes on where it was.

    The choices are those that TensorRT-RTX was seen to execute, on SM89 and SM120. For hopper builds full
    TensorRT, which has not been asked what it executes of them.
    """
    from r1trt.search.config import Budget, SearchConfig
    from r1trt.search.run import search_precision
    from r1trt.search.times import Workload

    has_budget = max_kl is not None or max_perplexity_increase is not None
    config = SearchConfig(
        budget=Budget(kl=max_kl, perplexity_increase=max_perplexity_increase) if has_budget else None,
        workload=Workload(batch=batch, prompt_tokens=prompt_tokens, new_tokens=new_tokens),
        **options,
    )
    with progress_reporter() as progress:
        result, directory = search_precision(config, progress)
    print_result(
        {"path": str(directory), **result.to_json()}, _lines(result, directory, config.model), as_json=as_json
    )


def _lines(result: SearchResult, directory: Path, model: Path) -> list[str]:
    compared = [point for point in result.points if point.final is not None]
    plan, facts = directory / "plan.yaml", result.facts
    minimized = "bytes of weights" if facts["minimize"] == "bytes" else f"modelled time on {facts['device']}"
    build = ["r1trt", "build", str(model), "--arch", str(facts["arch"]), "--plan", str(plan)]
    return [
        f"goal: {result.goal}; minimized: {minimized}",
        f"measured against FP32 on {facts['final_tokens']} tokens of held-out text:",
        "plan                  quantized  in FP8       MB  modelled ms  KL       perplexity (95 %)",
        *(_line(point) for point in (result.chosen, *compared)),
        "MB and ms are those of the layers that are chosen; greedy and random are what simpler searches find",
        *_notes(result),
        *_score_lines(result),
        f"the front has {len(result.front)} points, listed in the report: --from-front N takes another",
        f"plan: {plan}",
        f"report: {directory / 'report.html'}",
        f"next: {shlex.join(build)}",
    ]


def _notes(result: SearchResult) -> list[str]:
    """What a reader of the figures must not overlook."""
    notes = []
    if result.chosen.narrow_share == 0.0 and result.facts["keeps_heldout"] is not None:
        notes.append("NOTE: nothing narrower than BF16 keeps the budget, or gains by it")
    if result.facts["keeps_heldout"] is False:
        notes.append("BEYOND THE BUDGET on held-out text, at the interval's end")
    if result.caution is not None:
        notes.append(f"NOTE: {result.caution}")
    return notes


def _score_lines(result: SearchResult) -> list[str]:
    if result.scores is None:
        return []
    ranks = (result.scores.fisher_correlation, result.scores.error_correlation)
    fisher, error = ("none" if rank is None else f"{rank:.3f}" for rank in ranks)
    return [f"rank correlation with measured damage: Fisher {fisher}, error of the layer's result {error}"]


def _line(point: Point) -> str:
    measured = point.final
    if measured is None:
        raise ConfigError("A point was not measured.", found=point.name)
    ppl = measured.perplexity_increase
    return (
        f"{point.name:<21} {point.narrow_share:>9.1%} {point.fp8_share:>7.1%} {point.bytes / 1e6:>8.1f}"
        f" {1e3 * point.seconds:>12.2f}"
        f"  {measured.kl.mean:<7.4f}  {ppl.mean:+.2%} ({ppl.low:+.2%} to {ppl.high:+.2%})"
    )
