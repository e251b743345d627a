"""The options of every answer: how long it is, how its tokens are chosen, what of it is shown."""

from __future__ import annotations

import click

from r1trt.cli.options import Command, threads_option

_OPTIONS = (
    click.option("--system", metavar="TEXT", help="What the system message says."),
    click.option(
        "--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True, metavar="N",
        help="Stop after.",
    ),
    click.option(
        "--temperature", type=click.FloatRange(min=0.0), metavar="T",
        help="0 takes the most likely token; above, tokens are sampled. Default: the model's own"
        " (generation_config.json), else 0.",
    ),
    click.option(
        "--top-k", type=click.IntRange(min=0), metavar="N",
        help="Sample from this many of the most likely tokens, 0 from all. Default: the model's own, else 0.",
    ),
    click.option(
        "--top-p", type=click.FloatRange(min=0.0, min_open=True, max=1.0), metavar="P",
        help="Sample from the most likely tokens that hold this much probability. Default: the model's own,"
        " else 1.",
    ),
    click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="For sampling."
    ),
    click.option(
        "--stop", multiple=True, metavar="TEXT",
        help="A text that ends the answer, and is not given out; may be given more than once.",
    ),
    click.option(
        "--thinking", type=click.Choice(("show", "hide", "only")), default="show", show_default=True,
        help="What is between <think> and </think>: shown with the answer, hidden, or shown alone.",
    ),
    threads_option(),
)  # fmt: skip


def answering_options(command: Command) -> Command:
    """Adds them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
