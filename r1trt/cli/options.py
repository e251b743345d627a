"""Options that more than one command takes, each with one help text, and the default places of results."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from r1trt.errors import ConfigError
from r1trt.files import require_unicode_path

Command = TypeVar("Command", bound=Callable[..., Any])


class UnicodePath(click.Path):
    """A path of an argument, which is text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuses names that are not Unicode, as a usage error."""
        try:
            require_unicode_path(Path(value), ConfigError)
        except ConfigError as error:
            self.fail(f"{error.details['where']}: {error.message}", param, ctx)
        return super().convert(value, param, ctx)


class CheckpointPath(UnicodePath):
    """A checkpoint's directory; knows the name of a model on the Hugging Face hub, which is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuses what is not there, as a usage error."""
        name = str(value)
        if _HUB_NAME.fullmatch(name) and not Path(name).exists():
            self.fail(
                f"There is no directory {name!r} here. If that is a model on the Hugging Face hub, download "
                f"it first: hf download {name} --local-dir {name.split('/')[1]}", param, ctx,
            )  # fmt: skip
        return super().convert(value, param, ctx)


class Share(click.ParamType[float]):
    """A relative number: 0.01, or 1%."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, 0.01 for "1%"."""
        text = str(value).strip()
        try:
            return float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            self.fail(f"{value!r} is not a share, such as 1% or 0.01", param, ctx)


class ByteSize(click.ParamType[int]):
    """A number of bytes: 4000000000, or 4GB."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number, 4 * 10^9 for "4GB"."""
        found = _BYTES.fullmatch(str(value).strip())
        size = 0 if found is None else int(float(found[1]) * _BYTE_UNITS[(found[2] or "").upper()])
        if size < 1:
            self.fail(f"{value!r} is not a size, such as 4000000000 or 4GB", param, ctx)
        return size


_BYTES = re.compile(r"(\d{1,18}(?:\.\d{1,9})?) ?([kKMGT]?B)?", re.ASCII)
_BYTE_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

# As the hub takes them.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)

FILE = UnicodePath(exists=True, dir_okay=False, path_type=Path)
DIRECTORY = UnicodePath(exists=True, file_okay=False, path_type=Path)
"""Types of arguments that name what is there already."""

ENGINES = Path("engines")
"""Where results go when no `--output` is given: `engines/` of the current directory."""


def json_option(command: Command) -> Command:
    """Adds `--json`."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print one machine-readable result on stdout, and nothing else.",
    )(command)


def output_option(default: str) -> Callable[[Command], Command]:
    """Adds `--output`; `default` says in the help where the result goes otherwise."""
    return click.option(
        "-o",
        "--output",
        type=UnicodePath(file_okay=False, path_type=Path),
        metavar="DIR",
        help=f"Where the result goes; default: {default}.",
    )


def max_seq_len_option(help_text: str) -> Callable[[Command], Command]:
    """Adds `--max-seq-len`."""
    return click.option("--max-seq-len", type=click.IntRange(min=1), metavar="N", help=help_text)


def engine_argument(command: Command) -> Command:
    """Adds the argument ENGINE, an existing directory."""
    return click.argument("engine", type=DIRECTORY, metavar="ENGINE")(command)


def text_option(name: str, purpose: str) -> Callable[[Command], Command]:
    """Adds an option for a text, which by default comes with r1trt."""
    return click.option(
        name, type=FILE, metavar="FILE", help=f"{purpose}; default: text that comes with r1trt."
    )


def device_option(default: str) -> Callable[[Command], Command]:
    """Adds `--device`; `default` says in the help which one is taken otherwise."""
    return click.option(
        "--device", metavar="NAME", help=f"Device whose times are modelled; default: {default}."
    )


def threads_option(
    of: str = "", default: str = "one for each core that affinity and the container's CPU limit leave"
) -> Callable[[Command], Command]:
    """Adds `--threads`; `of` says in the help whose they are, `default` how many otherwise."""
    # ONNX Runtime starts as many as it is told, and with 1,000 on a few cores comes to no end.
    threads = click.IntRange(min=1, max=256)
    text = f"CPU threads{f' {of}' if of else ''}; default: {default}."
    return click.option("--threads", type=threads, metavar="N", help=text)


def cluster_option(text: str) -> Callable[[Command], Command]:
    """Adds `--cluster`, whose help begins with `text`."""
    return click.option("--cluster", metavar="ADDRESS", help=f"{text} Ray trusts its network.")


def prompt_lookup_option(command: Command) -> Command:
    """Adds `--prompt-lookup`."""
    return click.option(
        "--prompt-lookup",
        type=click.IntRange(min=0, max=64),
        default=0,
        show_default=True,
        metavar="N",
        help="Draft up to N tokens from what stands in prompt and answer already, and check them in one call,"
        " where one text alone is generated.",
    )(command)


def reuse_options(command: Command) -> Command:
    """Adds `--no-prefix-reuse`, `--reuse-answers`, `--pin-prompt`: `reuse`, `GenerationLimits` fields."""

    @functools.wraps(command)
    def gathered(
        *args: Any, no_prefix_reuse: bool, reuse_answers: bool, pin_prompt: Path | None, **kwargs: Any
    ) -> Any:
        from r1trt.serving.pinned import prompt_from_file

        reuse = {
            "prefix_reuse": not no_prefix_reuse,
            "reuse_answers": reuse_answers,
            "pinned_prompt": None if pin_prompt is None else prompt_from_file(pin_prompt),
        }
        return command(*args, reuse=reuse, **kwargs)

    for option in (
        click.option(
            "--pin-prompt",
            type=FILE,
            metavar="FILE",
            help="System prompt to read once and keep in the cache; it takes one of the rows.",
        ),
        click.option(
            "--reuse-answers",
            is_flag=True,
            help="Do not read again what the model wrote either; texts may then be others than without.",
        ),
        click.option(
            "--no-prefix-reuse",
            is_flag=True,
            help="Read every prompt as a whole, even if its beginning stands in the cache.",
        ),
    ):
        gathered = option(gathered)
    return cast(Command, gathered)


def trust_plugins_option(command: Command) -> Command:
    """Adds `--trust-plugins`."""
    return click.option(
        "--trust-plugins",
        is_flag=True,
        help="Run the plugin library that the directory brings, made elsewhere: it is code.",
    )(command)
