"""`r1trt build`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from r1trt.arch import ARCHITECTURES, Backend, BuildPrecision
from r1trt.calibrate.options import CALIBRATION_METHODS, MIN_TOKENS, PERCENTILE, TOKENS
from r1trt.cli.options import (
    DIRECTORY,
    FILE,
    ByteSize,
    UnicodePath,
    json_option,
    max_seq_len_option,
    output_option,
    text_option,
    trust_plugins_option,
)
from r1trt.cli.output import print_result, progress_reporter
from r1trt.cli.parts import part_lines, parts_json
from r1trt.text import size_text

if TYPE_CHECKING:
    from r1trt.artifacts import BuildArtifact

PLUGIN_USES = ("needed", "all")
REQUANTIZE = ("none", "tensor", "channel")
CACHE_TYPES = ("fp32", "fp16")
BACKENDS = ("auto", *get_args(Backend))

EPILOG = """
\b
Examples:
  r1trt build --arch ada --fp8
  r1trt build engines/SmolLM2 --arch cpu -o /data/smollm2-cpu
  r1trt build engines/R1 --arch hopper --parts 8 --dry-run
"""


@click.command(epilog=EPILOG, short_help="Build an engine from an export.")
@click.argument("model", required=False, type=DIRECTORY)
@click.option(
    "--arch", type=click.Choice(tuple(ARCHITECTURES)), help="What the engine will run on.  [required]"
)
@click.option("--fp8", is_flag=True, help="Matrix products in FP8, the rest as --bf16.")
@click.option(
    "--int8",
    is_flag=True,
    help="Weights of linears in INT8, the rest as --bf16; for cpu of experts and embedding too, the rest as "
    "--fp32.",
)
@click.option(
    "--int4",
    is_flag=True,
    help="For cpu: weights of linears and experts in INT4; of head, embedding and linears with few outputs "
    "in INT8.",
)
@click.option("--bf16", is_flag=True, help="BF16; norms, router and softmax in FP32.")
@click.option("--fp32", is_flag=True, help="FP32 throughout.")
@click.option(
    "--plan",
    type=FILE,
    metavar="FILE",
    help="Precision plan (YAML) to use instead of the rules'.",
)
@text_option("--calibration", "Text to measure FP8 scales on")
@click.option(
    "--calibration-method",
    type=click.Choice(CALIBRATION_METHODS),
    help="What becomes the largest FP8 number: the largest magnitude, one that all but a few values stay "
    "below, or what gives the smallest squared error.  [default: mse]",
)
@click.option(
    "--calibration-percentile",
    type=click.FloatRange(min=0, max=100, min_open=True),
    metavar="P",
    help=f"For --calibration-method percentile: values that stay below, in percent.  [default: {PERCENTILE}]",
)
@click.option(
    "--calibration-tokens",
    type=click.IntRange(min=MIN_TOKENS),
    metavar="N",
    help=f"Tokens of the text to measure on.  [default: {TOKENS}]",
)
@click.option(
    "--requantize",
    type=click.Choice(REQUANTIZE),
    default="none",
    show_default=True,
    help="A checkpoint's FP8 with block scales, where no product takes those: BF16, or FP8 again with one "
    "scale for a weight or one a row.",
)
@click.option(
    "--compensate/--no-compensate",
    default=None,
    help="Let each column of a quantized weight make up for the rounding of those before it (GPTQ), on the "
    "text of --calibration, also of a --plan; default: where weights are INT4.",
)
@click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True, help="Builder.")
@click.option("--max-batch-size", type=click.IntRange(min=1), metavar="N", help="Rows of a call, at most.")
@click.option("--max-input-len", type=click.IntRange(min=1), metavar="N", help="Tokens of a call, at most.")
@max_seq_len_option("Capacity of the KV cache in tokens; default: the export's.")
@click.option(
    "--no-cache", is_flag=True, help="Build an engine that scores whole prompts, without a KV cache."
)
@click.option(
    "--kv-cache",
    type=click.Choice(CACHE_TYPES),
    help="For cpu: type of the KV cache. FP16 takes half the memory, and makes steps behind long texts "
    "slower (SmolLM2 behind 2,000 tokens: by a quarter).  [default: fp32]",
)
@click.option(
    "--plugins",
    type=click.Choice(PLUGIN_USES),
    help="For --backend tensorrt: plugins for what TensorRT has no layers for, or for every layer that has "
    "one.  [default: needed]",
)
@click.option(
    "--plugin-library",
    type=FILE,
    metavar="FILE",
    help="TensorRT plugins to use; default: those that r1trt plugins build made.",
)
@click.option(
    "--embed-plugins", is_flag=True, help="Put the plugins into the engine, for --backend tensorrt."
)
@trust_plugins_option
@click.option(
    "--allow-fake-fp8",
    is_flag=True,
    help="Take an engine that multiplies wider types where FP8 or INT8 is planned.",
)
@click.option(
    "--timing-cache",
    type=UnicodePath(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Kernel timings to start from and add to, for --backend tensorrt; default: in the user's cache.",
)
@click.option(
    "--external-experts/--no-external-experts",
    default=None,
    help="Experts as inputs of the engine, read from the checkpoint's own files when it is loaded; default: "
    "for GPUs where three times the weights exceed this machine's memory.",
)
@click.option(
    "--dump-passes",
    type=UnicodePath(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the graph behind each pass there, without weights, for a graph viewer.",
)
@click.option(
    "--parts",
    type=click.IntRange(min=1),
    metavar="N",
    help="Divide the layers over N engines, which run in turn or on several machines.",
)
@click.option(
    "--max-part-bytes",
    type=ByteSize(),
    metavar="B",
    help="Divide them over as few engines as keep their weights within B, such as 40GB.",
)
@click.option("--dry-run", is_flag=True, help="For parts: show them, and build nothing.")
@output_option("ARCH-PRECISION in MODEL, with -parts for parts")
@json_option
def build(
    fp8: bool,
    int8: bool,
    int4: bool,
    bf16: bool,
    fp32: bool,
    no_cache: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Build an engine from MODEL, an export.

    MODEL is the newest export under engines/ by default.

    MODEL may also be a build that stopped because a GPU or a library was missing (exit code 3): it is
    finished.
    """
    from r1trt.artifacts import BuildArtifact
    from r1trt.build.config import BuildConfig
    from r1trt.build.pipeline import build_engine, parts_of_build

    precision = _precision({"fp8": fp8, "int8": int8, "int4": int4, "bf16": bf16, "fp32": fp32})
    config = BuildConfig(**options, precision=precision, cache=not no_cache)
    if dry_run and not config.is_split:
        raise click.UsageError("--dry-run shows parts: add --parts or --max-part-bytes.")
    parts = parts_of_build(config) if config.is_split else ()
    if dry_run:
        print_result({"parts": parts_json(parts)}, part_lines(parts), as_json=as_json)
        return
    if parts:
        click.echo("\n".join(part_lines(parts)), err=True)
    started = time.perf_counter()
    with progress_reporter() as progress:
        path = build_engine(config, progress)
    seconds = time.perf_counter() - started
    built = BuildArtifact.read(path)
    result = {"path": str(path), "seconds": round(seconds, 3), "manifest": built.manifest.to_json()}
    if parts:
        result["parts"] = parts_json(parts)
    print_result(result, _lines(built, seconds), as_json=as_json)


def _precision(flags: Mapping[BuildPrecision, bool]) -> BuildPrecision | None:
    """The one precision that was asked for; None leaves it to the architecture, or to the plan."""
    asked = [name for name, given in flags.items() if given]
    if len(asked) > 1:
        raise click.UsageError(f"{' and '.join(f'--{name}' for name in asked)} exclude each other.")
    return asked[0] if asked else None


def _lines(built: BuildArtifact, seconds: float) -> list[str]:
    path, manifest = built.path, built.manifest
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    engines = [f"  {engine.file}  {size_text(engine.bytes)}" for engine in manifest.engines]
    rows = f"for {manifest.max_batch_size} x {manifest.capacity} tokens"
    check = manifest.network_check  # empty where there is no TensorRT network
    network = (
        [f"  network: {check['obeyed']} layers as the plan asks, {check['unverified']} up to a fused kernel"]
        if check
        else []
    )
    if check.get("executed"):
        network.append(f"  engine: products of {check['executed']} layers read, none wider than planned")
    if "plugin" in check:
        network.append(
            f"  of attention, RoPE and experts: {check['native']} layers of TensorRT's own, "
            f"{check['plugin']} plugins"
        )
    return [
        f"built {path} ({size_text(size)}) with {manifest.backend} in {seconds:.1f} s",
        *engines,
        *([f"  {manifest.parts} parts, each in a directory of its own"] if manifest.parts else []),
        *([f"  KV cache: {size_text(manifest.kv_cache_bytes)} {rows}"] if manifest.kv_cache_bytes else []),
        *network,
        f"next: r1trt validate {shlex.quote(str(path))}",
    ]
