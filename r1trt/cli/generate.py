"""`r1trt generate`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from r1trt.cli.answering_options import answering_options
from r1trt.cli.options import (
    cluster_option,
    engine_argument,
    json_option,
    prompt_lookup_option,
    trust_plugins_option,
)
from r1trt.cli.output import print_result, printable

if TYPE_CHECKING:
    from r1trt.runtime.generate import GenerateConfig
    from r1trt.runtime.generation import GenerationStatistics
    from r1trt.runtime.sampling import SamplingConfig
    from r1trt.runtime.session import Session

EPILOG = """
\b
Examples:
  r1trt generate engines/SmolLM2/cpu-fp32 --prompt "What is the capital of France?"
  r1trt generate engines/SmolLM2/cpu-fp32 --prompt "Once upon a time" --raw --temperature 0.8 --seed 3
  r1trt generate engines/SmolLM2/cpu-parts --prompt "Once upon a time" --cluster 127.0.0.1:6379
"""


@click.command(epilog=EPILOG, short_help="Answer a prompt with a build.")
@engine_argument
@click.option("--prompt", required=True, metavar="TEXT", help="What the user says.")
@click.option("--raw", is_flag=True, help="Go on with the prompt as it stands, without the chat template.")
@prompt_lookup_option
@answering_options
@trust_plugins_option
@cluster_option(
    "Run the parts of ENGINE on a Ray cluster, an actor each: HOST:PORT of its head, or `local` for one of"
    " this process."
)
@json_option
def generate(engine: Path, as_json: bool, cluster: str | None, **options: Any) -> None:
    """Answer a prompt with ENGINE, a build directory; the text appears as it is generated."""
    from r1trt.runtime.generate import GenerateConfig
    from r1trt.runtime.generate import generate as generate_text

    config = GenerateConfig(engine=engine, **options)
    with nullcontext() if cluster is None else _session_on_cluster(cluster, config) as session:
        generation = generate_text(config, session=session)
        print_notes(generation.notes)
        text = text_of_pieces(generation, shown=not as_json)
    statistics = generation.statistics
    assert statistics is not None
    if as_json:
        result = {"text": text, **statistics.to_dict(), "notes": list(generation.notes)}
        print_result(result, [], as_json=True)
        return
    click.echo()
    click.echo(f"r1trt: {statistics_text(statistics)}", err=True)


@contextmanager
def _session_on_cluster(address: str, config: GenerateConfig) -> Iterator[Session]:
    from r1trt.cluster.config import ClusterConfig
    from r1trt.cluster.open import opened_session

    on_cluster = ClusterConfig(directory=config.engine, threads=config.threads)
    with opened_session(address, on_cluster, lambda text: click.echo(f"r1trt: {text}", err=True)) as session:
        yield session


def print_notes(notes: tuple[str, ...]) -> None:
    """What a user should know of the text, before it begins."""
    for note in notes:
        click.echo(f"r1trt: note: {printable(note)}", err=True)


def text_of_pieces(pieces: Iterable[str], *, shown: bool) -> str:
    """The text of all pieces; each is printed as it comes, if `shown`."""
    taken = []
    for piece in pieces:
        taken.append(piece)
        if shown:
            click.echo(piece, nl=False)
    return "".join(taken)


def statistics_text(statistics: GenerationStatistics) -> str:
    """One line."""
    thinking, speed = statistics.thinking_tokens, statistics.decode_tokens_per_second
    kinds = f": {thinking} thinking, {statistics.answer_tokens} answer" if thinking else ""
    drafted = statistics.drafted_tokens
    held = f" ({statistics.held_tokens} in the cache already)" if statistics.held_tokens else ""
    return (
        f"{statistics.prompt_tokens} prompt tokens{held}, {statistics.new_tokens} new{kinds}"
        f" ({statistics.finish_reason}, {sampling_text(statistics.sampling)}),"
        f" first after {statistics.time_to_first_token:.2f} s"
        + (f", then {speed:.1f} tokens/s" if speed is not None else "")
        + (f", {statistics.accepted_tokens} of {drafted} drafted tokens taken" if drafted is not None else "")
    )


def sampling_text(sampling: SamplingConfig) -> str:
    """How tokens are chosen, in words."""
    return sampling.text + (f", seed {sampling.seed}" if sampling.temperature else "")
