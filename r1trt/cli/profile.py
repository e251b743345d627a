"""`r1trt profile`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from r1trt.arch import BuildPrecision
from r1trt.cli.options import (
    FILE,
    UnicodePath,
    json_option,
    output_option,
    threads_option,
    trust_plugins_option,
)
from r1trt.cli.output import print_result, progress_reporter
from r1trt.cli.profile_table import profile_lines
from r1trt.errors import UsageError
from r1trt.estimate.gpus import DEVICES
from r1trt.profile.options import BREAKDOWNS, METRICS

if TYPE_CHECKING:
    from r1trt.profile.result import Profile

EPILOG = """
\b
Examples:
  r1trt profile r1-70b --on h200 --precision fp8
  r1trt profile --model r1-70b --input test.json --metrics latency,flops,memory --breakdown layer_type
  r1trt profile engines/SmolLM2/cpu-fp32 --breakdown part -o profile
"""


class Metrics(click.ParamType[tuple[str, ...]]):
    """Names of metrics with commas between them."""

    name = "metrics"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """The names, each once."""
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(name.strip() for name in str(value).split(",")))
        if unknown := [name for name in names if name not in METRICS]:
            self.fail(f"there is no metric {unknown[0]!r}; there are {', '.join(METRICS)}", param, ctx)
        return names


@click.command(epilog=EPILOG, short_help="Say where a model's time and memory go, by part.")
@click.argument("model", required=False)
@click.option("--model", "named", metavar="MODEL", help="The same as the argument.")
@click.option(
    "--input", type=FILE, metavar="FILE",
    help="What is answered (JSON): lengths or prompts; default: one prompt of 512 tokens, 128 new ones.",
)  # fmt: skip
@click.option(
    "--metrics", type=Metrics(), default=",".join(METRICS), show_default=True, metavar="LIST",
    help="What is shown, with commas between.",
)  # fmt: skip
@click.option(
    "--breakdown", type=click.Choice(BREAKDOWNS), default=BREAKDOWNS[0], show_default=True,
    help="What a row is.",
)  # fmt: skip
@click.option(
    "--on", "device", type=click.Choice(tuple(DEVICES)),
    help="Whose roofline; default: that of a build's --arch, else h100.",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(get_args(BuildPrecision)),
    help="Types of a model that is not built; default: bf16 on a GPU, fp32 on cpu.",
)  # fmt: skip
@click.option("--no-measure", is_flag=True, help="Do not run a build, though this machine could.")
@click.option(
    "--repeats", type=click.IntRange(min=1), default=3, show_default=True, metavar="N",
    help="Prefills that are measured; their median counts.",
)  # fmt: skip
@threads_option()
@trust_plugins_option
@output_option("nowhere; else DIR gets profile.json and report.html")
@click.option(
    "--html", type=UnicodePath(dir_okay=False, path_type=Path), metavar="FILE", help="Write the page alone."
)
@json_option
def profile(
    model: str | None,
    named: str | None,
    no_measure: bool,
    output: Path | None,
    html: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say where the time and memory of MODEL go, by kind of layer, layer, operator or part.

    MODEL is a checkpoint, an export, a build, a config.json, or the name of a known model. Arithmetic, bytes
    and memory follow from its shapes; times are those of a device's roofline, and beside them, for a build
    that this machine can run, the measured ones.
    """
    from r1trt.profile.profile import ProfileConfig, profile_model

    if (model is None) == (named is None):
        raise UsageError("One model is profiled.", found=[model, named], expected="MODEL, or --model MODEL")
    config = ProfileConfig(model=str(model or named), measure=not no_measure, **options)
    with progress_reporter() as progress:
        found = profile_model(config, progress)
    written = list(_written(found, output, html))
    lines = [*profile_lines(found), *(f"page: {path}" for path in written)]
    result = {**found.to_json(), "pages": [str(path) for path in written]}
    print_result(result, lines, as_json=as_json)


def _written(found: Profile, output: Path | None, html: Path | None) -> Iterator[Path]:
    """Writes what was asked for, and names the pages."""
    if output is None and html is None:
        return
    from r1trt.artifacts.disk import replace_file
    from r1trt.artifacts.manifest import json_text
    from r1trt.profile.page import page_of_profile

    page = page_of_profile(found)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        replace_file(output / "profile.json", json_text(found.to_json()))
        replace_file(output / "report.html", page)
        yield output / "report.html"
    if html is not None:
        replace_file(html, page)
        yield html
