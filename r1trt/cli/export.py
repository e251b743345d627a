"""`r1trt export`."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from r1trt.cli.estimate import DEFAULT_INPUT_LEN, estimate_lines
from r1trt.cli.options import ENGINES, CheckpointPath, json_option, max_seq_len_option, output_option
from r1trt.cli.output import print_result, progress_reporter
from r1trt.text import size_text

if TYPE_CHECKING:
    from r1trt.export.export import ExportConfig

EPILOG = """
\b
Examples:
  r1trt export DeepSeek-R1-Distill-Llama-8B
  r1trt export SmolLM2 -o /data/smollm2 --max-seq-len 4096 --copy
"""


@click.command(epilog=EPILOG, short_help="Write a checkpoint as an ONNX graph.")
@click.argument("checkpoint", type=CheckpointPath(exists=True, file_okay=False, path_type=Path))
@output_option("engines/NAME, NAME being the checkpoint's")
@max_seq_len_option("Capacity of the KV cache in tokens; default: what the checkpoint was trained for.")
@click.option("--copy", is_flag=True, help="Copy the weights into the result, so that it can be moved.")
@click.option("--dry-run", is_flag=True, help="Check the checkpoint, say what it takes, and write nothing.")
@click.option("--last-token-logits", is_flag=True, help="Compute logits for each row's last token only.")
@json_option
def export(
    checkpoint: Path,
    output: Path | None,
    max_seq_len: int | None,
    copy: bool,
    dry_run: bool,
    last_token_logits: bool,
    as_json: bool,
) -> None:
    """Write CHECKPOINT, a Hugging Face directory, as an ONNX graph.

    Reads only the headers of the weights: they stay where they are, and the graph points into them.
    """
    from r1trt.export.export import ExportConfig

    config = ExportConfig(
        checkpoint=checkpoint,
        output=output or ENGINES / checkpoint.resolve().name,
        max_seq_len=max_seq_len,
        copy=copy,
        last_token_logits=last_token_logits,
    )
    run = _print_dry_run if dry_run else _export
    run(config, as_json=as_json)


def _export(config: ExportConfig, *, as_json: bool) -> None:
    from r1trt.artifacts import ExportArtifact
    from r1trt.export.export import export_checkpoint

    started = time.perf_counter()
    with progress_reporter() as progress:
        path = export_checkpoint(config, progress)
    seconds = time.perf_counter() - started
    manifest = ExportArtifact.read(path).manifest
    result = {
        "path": str(path),
        "model_name": manifest.model_name,
        "capacity": manifest.capacity,
        "weights": asdict(manifest.weights),
        "notes": manifest.notes,
        "seconds": round(seconds, 3),
    }
    where = "in it" if config.copy else f"in {manifest.weights.base_directory}"
    lines = [
        f"exported {manifest.model_name} to {path} in {seconds:.1f} s",
        f"  KV cache {manifest.capacity} tokens; weights {size_text(manifest.weights.bytes)} {where}",
        *(f"  note: {note}" for note in manifest.notes),
        f"next: r1trt build {shlex.quote(str(path))} --arch ada --fp8",
    ]
    print_result(result, lines, as_json=as_json)


def _print_dry_run(config: ExportConfig, *, as_json: bool) -> None:
    """What an export would check, and what it and the steps behind it take."""
    from r1trt.estimate.estimate import estimate_of
    from r1trt.estimate.placement import Use
    from r1trt.estimate.source import sized_model_from_checkpoint
    from r1trt.export.export import checked_export

    checkpoint, capacity = checked_export(config)
    use = Use(batch=1, max_seq_len=capacity, max_input_len=min(DEFAULT_INPUT_LEN, capacity))
    model = sized_model_from_checkpoint(checkpoint)
    found = estimate_of(model, use, config.output, copy=config.copy)
    result = {"dry_run": True, "path": str(config.output), "capacity": capacity, **found.to_json()}
    lines = [f"nothing was written; an export would be in {config.output}", *estimate_lines(found)]
    print_result(result, lines, as_json=as_json)
