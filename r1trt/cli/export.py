"""`r1trt export`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import click

from r1trt.cli.options import ENGINES, json_option, max_seq_len_option, output_option
from r1trt.cli.output import print_result, progress_reporter, size_text

EPILOG = """
\b
Examples:
  r1trt export DeepSeek-R1-Distill-Llama-8B
  r1trt export SmolLM2 -o /data/smollm2 --max-seq-len 4096 --copy
"""


@click.command(epilog=EPILOG, short_help="Write a checkpoint as an ONNX graph.")
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@output_option("engines/NAME, NAME being the checkpoint's")
@max_seq_len_option("Capacity of the KV cache in tokens; default: what the checkpoint was trained for.")
@click.option("--copy", is_flag=True, help="Copy the weights into the result, so that it can be moved.")
@click.option("--last-token-logits", is_flag=True, help="Compute logits for each row's last token only.")
@json_option
def export(
    checkpoint: Path,
    output: Path | None,
    max_seq_len: int | None,
    copy: bool,
    last_token_logits: bool,
    as_json: bool,
) -> None:
    """Write CHECKPOINT, a Hugging Face directory, as an ONNX graph.

    Reads only the headers of the weights: they stay where they are, and the graph points into them.
    """
    from r1trt.artifacts import ExportArtifact
    from r1trt.export.export import ExportConfig, export_checkpoint

    config = ExportConfig(
        checkpoint=checkpoint,
        output=output or ENGINES / checkpoint.resolve().name,
        max_seq_len=max_seq_len,
        copy=copy,
        last_token_logits=last_token_logits,
    )
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
    where = "in it" if copy else f"in {manifest.weights.base_directory}"
    lines = [
        f"exported {manifest.model_name} to {path} in {seconds:.1f} s",
        f"  KV cache {manifest.capacity} tokens; weights {size_text(manifest.weights.bytes)} {where}",
        *(f"  note: {note}" for note in manifest.notes),
        f"next: r1trt build {path} --arch ada --fp8",
    ]
    print_result(result, lines, as_json=as_json)
