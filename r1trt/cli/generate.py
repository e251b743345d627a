"""`r1trt generate`."""

from __future__ import annotations

from pathlib import Path

import click

from r1trt.cli.options import engine_argument, json_option
from r1trt.cli.output import print_result

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
@json_option
def generate(
    engine: Path, prompt: str, max_new_tokens: int, temperature: float, seed: int, as_json: bool
) -> None:
    """Answer a prompt with ENGINE, a build directory; the text appears as it is generated."""
    from r1trt.runtime.generate import GenerateConfig
    from r1trt.runtime.generate import generate as generate_text

    config = GenerateConfig(
        engine=engine, prompt=prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
    )
    generation = generate_text(config)
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
    speed = statistics.decode_tokens_per_second
    click.echo(
        f"r1trt: {statistics.prompt_tokens} prompt tokens, {statistics.new_tokens} new"
        f" ({statistics.finish_reason}), first after {statistics.time_to_first_token:.2f} s"
        + (f", then {speed:.1f} tokens/s" if speed is not None else ""),
        err=True,
    )
