"""`r1trt generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from r1trt.cli.options import engine_argument, json_option, trust_plugins_option
from r1trt.cli.output import print_result
from r1trt.tokenizer.thinking import THINKING_MODES

if TYPE_CHECKING:
    from r1trt.runtime.generation import GenerationStatistics

EPILOG = """
\b
Example:
  r1trt generate engines/SmolLM2/cpu-fp32 --prompt "What is the capital of France?"
"""


@click.command(epilog=EPILOG, short_help="Answer a prompt with a build.")
@engine_argument
@click.option("--prompt", required=True, metavar="TEXT", help="What the user says.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    metavar="N",
    help="Stop after.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0.0),
    default=0.0,
    show_default=True,
    metavar="T",
    help="0 takes the most likely token; above, tokens are sampled.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="For sampling."
)
@click.option(
    "--thinking",
    type=click.Choice(THINKING_MODES),
    default="show",
    show_default=True,
    help="What is between <think> and </think>: shown with the answer, hidden, or shown alone.",
)
@trust_plugins_option
@json_option
def generate(engine: Path, as_json: bool, **options: Any) -> None:
    """Answer a prompt with ENGINE, a build directory; the text appears as it is generated."""
    from r1trt.runtime.generate import GenerateConfig
    from r1trt.runtime.generate import generate as generate_text

    generation = generate_text(GenerateConfig(engine=engine, **options))
    pieces = []
    for piece in generation:
        pieces.append(piece)
        if not as_json:
            click.echo(piece, nl=False)
    statistics = generation.statistics
    assert statistics is not None
    if as_json:
        print_result({"text": "".join(pieces), **statistics.to_dict()}, [], as_json=True)
        return
    click.echo()
    click.echo(f"r1trt: {_statistics_text(statistics)}", err=True)


def _statistics_text(statistics: GenerationStatistics) -> str:
    thinking, speed = statistics.thinking_tokens, statistics.decode_tokens_per_second
    kinds = f": {thinking} thinking, {statistics.answer_tokens} answer" if thinking else ""
    return (
        f"{statistics.prompt_tokens} prompt tokens, {statistics.new_tokens} new{kinds}"
        f" ({statistics.finish_reason}), first after {statistics.time_to_first_token:.2f} s"
        + (f", then {speed:.1f} tokens/s" if speed is not None else "")
    )
