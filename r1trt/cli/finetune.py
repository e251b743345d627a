"""`r1trt finetune`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from r1trt.arch import ARCHITECTURES
from r1trt.artifacts.build import BuildDirectory
from r1trt.calibrate.options import MIN_TOKENS
from r1trt.cli.options import (
    ENGINES,
    CheckpointPath,
    json_option,
    output_option,
    text_option,
    threads_option,
)
from r1trt.cli.output import print_result, progress_reporter, table_lines
from r1trt.errors import UsageError
from r1trt.finetune.config import (
    BATCH,
    EPOCHS,
    HELDOUT_TOKENS,
    LEARNING_RATE,
    LOSSES,
    SAVE_EVERY,
    SEQ_LEN,
    FinetuneConfig,
    Precision,
)

if TYPE_CHECKING:
    from r1trt.finetune.result import FinetuneResult

PLACE = ENGINES / "checkpoints"
_POSITIVE = click.IntRange(min=1)
EPILOG = """
\b
Examples:
  r1trt finetune SmolLM2 --fp8 --text mine.jsonl --epochs 2
  r1trt finetune SmolLM2 --fp8 --keep-layers=-3,-2
Run the same command again after it was cut off: it goes on where it was saved.
"""


class _Layers(click.ParamType[tuple[int, ...]]):
    """Indices of layers: -3,-2, or none."""

    name = "layers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The indices, in the order given."""
        text = str(value).strip()
        try:
            return () if text == "none" else tuple(int(part) for part in text.split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of layers, such as -3,-2 or none", param, ctx)


@click.command(epilog=EPILOG, short_help="Train a checkpoint to live with a precision plan.")
@click.argument("checkpoint", type=CheckpointPath(exists=True, file_okay=False, path_type=Path))
@click.option("--fp8", is_flag=True, help="Train with the roundings of FP8 products.")
@click.option("--bf16", is_flag=True, help="Quantize nothing: what the training does by itself.")
@click.option(
    "--arch",
    type=click.Choice(tuple(ARCHITECTURES)),
    default="ada",
    show_default=True,
    help="Whose plan is followed.",
)
@text_option("--text", "Text to train on")
@click.option("--epochs", type=_POSITIVE, default=EPOCHS, show_default=True, help="How often it is read.")
@click.option(
    "--seq-len",
    type=click.IntRange(min=2),
    metavar="N",
    help=f"Tokens of a window; default: {SEQ_LEN}, or the model's context length.",
)
@click.option("--batch", type=_POSITIVE, default=BATCH, show_default=True, help="Windows of a step.")
@click.option(
    "--learning-rate", type=float, default=LEARNING_RATE, show_default=True, help="The highest of all steps."
)
@click.option(
    "--loss",
    type=click.Choice(LOSSES),
    default=LOSSES[0],
    show_default=True,
    help="Meet the unquantized model's predictions, or the text's next token.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the order of windows."
)
@click.option(
    "--keep-layers",
    type=_Layers(),
    metavar="LIST",
    help="Layers that keep their activations, as -3,-2 or none; all others compute them again in the "
    "backward pass. Default: all keep them.",
)
@click.option(
    "--save-every", type=_POSITIVE, default=SAVE_EVERY, show_default=True, help="Steps between two saves."
)
@threads_option()
@text_option("--heldout", "Text that accuracy is measured on, before and after")
@click.option(
    "--heldout-tokens",
    type=click.IntRange(min=MIN_TOKENS),
    default=HELDOUT_TOKENS,
    show_default=True,
    metavar="N",
    help="Tokens to measure accuracy on, at most.",
)
@output_option(f"{PLACE}/NAME-fp8, NAME being the checkpoint's")
@json_option
def finetune(
    checkpoint: Path, output: Path | None, fp8: bool, bf16: bool, as_json: bool, **options: Any
) -> None:
    """Train CHECKPOINT, a Hugging Face directory, with the roundings of FP8, and write it as a new one.

    The result is a checkpoint of BF16 weights with finetuning.json and a precision plan beside them, which
    has all scales: a build takes it with --plan, and calibrates nothing.
    """
    from r1trt.finetune.finetune import finetune_checkpoint

    precision = _precision(fp8=fp8, bf16=bf16)
    place = output or PLACE / f"{checkpoint.resolve().name}-{precision}"
    config = FinetuneConfig(checkpoint=checkpoint, output=place, precision=precision, **options)
    with progress_reporter() as progress:
        result = finetune_checkpoint(config, progress)
    found = {"path": str(config.output), **result.to_json()}
    print_result(found, _lines(result, config), as_json=as_json)


def _precision(*, fp8: bool, bf16: bool) -> Precision:
    if fp8 == bf16:
        raise UsageError(
            "A fine-tuning needs one precision.",
            found="--fp8 and --bf16" if fp8 else "neither --fp8 nor --bf16",
            fix="pass --fp8",
        )
    return "fp8" if fp8 else "bf16"


def _lines(result: FinetuneResult, config: FinetuneConfig) -> list[str]:
    header = ("model", "perplexity", "increase (95 % interval)", "KL", "agreement")
    output = config.output
    export = ["r1trt", "export", str(output), "-o", str(ENGINES / output.name)]
    plan = BuildDirectory(path=output).precision_plan
    build = ["r1trt", "build", str(ENGINES / output.name), "--arch", config.arch, "--plan", str(plan)]
    return [
        *table_lines(header, result.rows),
        *result.summary(),
        f"next: {shlex.join(export)} && {shlex.join(build)}",
    ]
