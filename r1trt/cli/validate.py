"""`r1trt validate`."""

from __future__ import annotations

from pathlib import Path

import click

from r1trt.cli.options import DIRECTORY, engine_argument, json_option, text_option, trust_plugins_option
from r1trt.cli.output import print_result, progress_reporter

EPILOG = """
\b
Examples:
  r1trt validate engines/SmolLM2/ada-fp8
  r1trt validate engines/SmolLM2/cpu-fp32 --reference path/to/SmolLM2
"""


@click.command(epilog=EPILOG, short_help="Compare a build with its checkpoint on real text.")
@engine_argument
@click.option(
    "--reference",
    type=DIRECTORY,
    metavar="CHECKPOINT",
    help="Checkpoint to compare with; default: the one the engine was made from.",
)
@text_option("--prompts", "Text to compare on")
@click.option(
    "--max-tokens",
    type=click.IntRange(min=2),
    default=2048,
    show_default=True,
    metavar="N",
    help="Tokens to compare on, at most.",
)
@trust_plugins_option
@json_option
def validate(
    engine: Path,
    reference: Path | None,
    prompts: Path | None,
    max_tokens: int,
    trust_plugins: bool,
    as_json: bool,
) -> None:
    """Compare every stage of ENGINE with the checkpoint on real text.

    Writes validation.json and report.html into ENGINE. Exits 1 where a threshold of the precision plan is
    missed.
    """
    from r1trt.artifacts.validation import ValidationDirectory
    from r1trt.validate.config import ValidateConfig
    from r1trt.validate.validate import validate_engine

    config = ValidateConfig(
        engine=engine, reference=reference, prompts=prompts, max_tokens=max_tokens,
        trust_plugins=trust_plugins,
    )  # fmt: skip
    with progress_reporter() as progress:
        report = validate_engine(config, progress)
    page = ValidationDirectory(path=engine).page
    result = {"path": str(engine), "report": str(page), **report.to_dict()}
    print_result(result, [*report.lines(), f"report: {page}"], as_json=as_json)
