"""`r1trt chat`."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from r1trt.cli.answering_options import answering_options
from r1trt.cli.generate import print_notes, sampling_text, statistics_text, text_of_pieces
from r1trt.cli.options import engine_argument, trust_plugins_option
from r1trt.cli.output import print_error
from r1trt.errors import R1TrtError
from r1trt.lifetime.ending import at_ending

if TYPE_CHECKING:
    from r1trt.runtime.chat import Chat

EPILOG = """
\b
Example:
  r1trt chat engines/SmolLM2/cpu-fp32 --system "You are a helpful assistant."
"""
COMMANDS = {
    "/reset": "forget what was said",
    "/help": "list the commands",
    "/exit": "end (Ctrl-D does, too)",
}


@click.command(epilog=EPILOG, short_help="Talk with a build.")
@engine_argument
@answering_options
@trust_plugins_option
@click.option("--json", "as_json", is_flag=True, help="Print each answer as one line of JSON on stdout.")
def chat(engine: Path, as_json: bool, **options: Any) -> None:
    """Talk with ENGINE, a build directory: each line of the input is a message of yours.

    The model is given the whole conversation each time; what its cache holds of it is not read again. /reset
    forgets it, /exit or the end of the input ends.
    """
    from r1trt.runtime.answering import AnsweringConfig
    from r1trt.runtime.chat import Chat

    with closing(Chat(AnsweringConfig(engine=engine, **options))) as conversation:
        print_notes(conversation.notes)
        is_terminal = sys.stdin.isatty()
        if is_terminal:
            click.echo(f"r1trt: {sampling_text(conversation.sampling)}; /help lists the commands", err=True)
        for number, line in enumerate(_lines(is_terminal), 1):
            if line.strip() == "/exit":
                break
            try:
                _turn(conversation, line, as_json=as_json)
            except R1TrtError as error:
                if not is_terminal:
                    raise error.within(f"line {number}") from error
                print_error(error, as_json=as_json)
                click.echo("r1trt: the message is left out of the conversation; /reset begins anew", err=True)


def _turn(conversation: Chat, line: str, *, as_json: bool) -> None:
    command = line.strip()
    if command == "/reset":
        conversation.reset()
        click.echo("r1trt: the conversation is forgotten", err=True)
    elif command == "/help":
        click.echo("\n".join(f"{name}  {meaning}" for name, meaning in COMMANDS.items()), err=True)
    elif command.startswith("/") and command[1:].isalpha():
        click.echo(f"r1trt: there is no command {command}; there are {', '.join(COMMANDS)}", err=True)
    elif command:
        _answer(conversation, line, as_json=as_json)


def _answer(conversation: Chat, line: str, *, as_json: bool) -> None:
    text = text_of_pieces(conversation.answer(line), shown=not as_json)
    statistics = conversation.statistics
    assert statistics is not None
    if as_json:
        click.echo(json.dumps({"text": text, **statistics.to_dict()}, allow_nan=False))
        return
    click.echo()
    click.echo(f"r1trt: {statistics_text(statistics)}", err=True)


def _lines(is_terminal: bool) -> Iterator[str]:
    """What is typed, a line at a time, without the line break."""
    if not is_terminal:
        # What is no UTF-8 becomes an error that names the line, whatever the locale.
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
        for line in sys.stdin:
            yield line.rstrip("\r\n")
        return
    with _terminal_restored():
        while True:
            try:
                if not sys.stdout.isatty():  # there are answers only
                    click.echo("> ", nl=False, err=True)
                yield input("> " if sys.stdout.isatty() else "").strip()
            except EOFError:
                click.echo(err=True)
                return


@contextmanager
def _terminal_restored() -> Iterator[None]:
    """Editing of the line, which switches the terminal's echo off: on again if a signal ends the process."""
    import termios

    with suppress(ImportError):
        import readline  # noqa: F401 - `input` edits with it
    saved = termios.tcgetattr(sys.stdin)
    with at_ending(lambda: termios.tcsetattr(sys.stdin, termios.TCSANOW, saved)):
        yield
