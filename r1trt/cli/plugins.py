"""`r1trt plugins`: the library of TensorRT plugins, built, checked and timed."""

from __future__ import annotations

from typing import Any

import click

from r1trt.arch import GPU_ARCHITECTURES
from r1trt.cli.options import DIRECTORY, json_option, output_option
from r1trt.cli.output import print_result
from r1trt.cli.plugin_checks import bench, check, report


@click.group()
def plugins() -> None:
    """Build, check and time the library of TensorRT plugins."""


plugins.add_command(check)
plugins.add_command(bench)
plugins.add_command(report)


@plugins.command("build")
@click.option(
    "--arch",
    required=True,
    type=click.Choice((*GPU_ARCHITECTURES, "all")),
    help="GPU architecture; all makes one library that runs on each.",
)
@output_option("the cache, where r1trt build finds it")
@click.option(
    "--headers",
    type=DIRECTORY,
    metavar="DIR",
    help="NVIDIA's TensorRT headers; default: looked for, and not needed.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Compilers at a time.")
@json_option
def build(as_json: bool, **options: Any) -> None:
    """Compile the plugins with nvcc; a second call with the same inputs takes the library from the cache."""
    from r1trt.plugin_tools import PluginBuildConfig, build_plugins

    config = PluginBuildConfig(**options)
    library = build_plugins(config, lambda text: click.echo(text, err=True))
    result = {
        **library.as_manifest(),
        "path": str(library.path),
        "key": library.key,
        "cached": library.cached,
    }
    lines = [
        f"library    {library.path}",
        f"operators  {', '.join(library.operators)}",
        f"code for   {', '.join(f'SM{sm}' for sm in library.sms)}",
        f"headers    {library.headers}",
        f"sha256     {library.sha256}",
    ]
    print_result(result, lines, as_json=as_json)
