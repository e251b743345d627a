"""`r1trt triton`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from r1trt.cli.options import (
    DIRECTORY,
    FILE,
    UnicodePath,
    json_option,
    prompt_lookup_option,
    reuse_options,
    trust_plugins_option,
)
from r1trt.cli.output import print_result

EPILOG = """
\b
Examples:
  r1trt triton engines/SmolLM2/cpu-fp32 -o repository
  r1trt triton engines/R1/hopper-fp8 -o repository --trt-version 11.4.0.106
"""

COUNT = click.IntRange(min=1)


@click.command(epilog=EPILOG, short_help="Write a Triton model repository for a build.")
@click.argument(
    "engine",
    nargs=-1,
    required=True,
    type=DIRECTORY,
    metavar="ENGINE...",
)
@click.option(
    "-o",
    "--output",
    type=UnicodePath(file_okay=False, path_type=Path),
    required=True,
    metavar="REPOSITORY",
    help="The model repository to write; to one that is there the model is added, or replaces its namesake.",
)
@click.option("--model-name", metavar="NAME", help="Name that clients ask for; default: the checkpoint's.")
@click.option(
    "--trt-version",
    metavar="VERSION",
    help="TensorRT version of the server; an engine that another version built is refused.",
)
@click.option(
    "--plugin-library",
    type=FILE,
    metavar="FILE",
    help="TensorRT plugins to use; default: those that the engine was built with.",
)
@trust_plugins_option
@click.option(
    "--rows", type=COUNT, metavar="N", help="Requests that run at a time; default: the engine's batch size."
)
@click.option(
    "--chunk-tokens", type=COUNT, metavar="N", help="Prompt tokens of one call; default: measured on a CPU."
)
@click.option(
    "--token-budget",
    type=COUNT,
    metavar="N",
    help="Tokens of all running requests, asked-for ones included; default: what the cache holds.",
)
@click.option(
    "--max-queue", type=COUNT, default=256, show_default=True, metavar="N", help="Requests that may wait."
)
@reuse_options
@prompt_lookup_option
@json_option
def triton(
    engine: tuple[Path, ...],
    output: Path,
    model_name: str | None,
    trt_version: str | None,
    plugin_library: Path | None,
    trust_plugins: bool,
    rows: int | None,
    chunk_tokens: int | None,
    token_budget: int | None,
    max_queue: int,
    reuse: dict[str, Any],
    prompt_lookup: int,
    as_json: bool,
) -> None:
    """Write a Triton model repository for ENGINE, a build directory.

    An engine with a KV cache becomes a model that generates text; one built with --no-cache becomes a model
    that gives the logits of a prompt. Several ENGINEs are builds of one model for different GPUs.
    """
    from r1trt.package.limits import GenerationLimits
    from r1trt.package.repository import TritonConfig, repository_from_engine

    limits = GenerationLimits(
        rows=rows,
        chunk_tokens=chunk_tokens,
        token_budget=token_budget,
        max_queue=max_queue,
        **reuse,
        prompt_lookup=prompt_lookup,
    )
    config = TritonConfig(
        engines=engine,
        output=output,
        model_name=model_name,
        trt_version=trt_version,
        plugin_library=plugin_library,
        trust_plugins=trust_plugins,
        limits=limits,
    )
    path = repository_from_engine(config)
    lines = [f"model repository in {path}", f"next: {path / 'README.md'} has the server's command"]
    print_result({"path": str(path)}, lines, as_json=as_json)
