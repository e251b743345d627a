"""`r1trt estimate`, and what `r1trt export --dry-run` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from r1trt.cli.options import json_option, max_seq_len_option
from r1trt.cli.output import fact_lines, print_result, table_lines
from r1trt.text import count_text, duration_text, size_text

if TYPE_CHECKING:
    from r1trt.estimate.estimate import Estimate
    from r1trt.estimate.placement import Placement
    from r1trt.estimate.steps import Step

DEFAULT_INPUT_LEN = 512

EPILOG = """
\b
Examples:
  r1trt estimate r1-distill-llama-70b --batch 8 --max-seq-len 8192
  r1trt estimate path/to/checkpoint
"""


@click.command(epilog=EPILOG, short_help="Say what a model takes: memory, disk, GPUs, time.")
@click.argument("model")
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Rows at once."
)
@max_seq_len_option("Tokens of a row's KV cache; default: what an export takes.")
@click.option(
    "--max-input-len",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens of a prefill call; default: 512, or the cache where that is less.",
)
@json_option
def estimate(
    model: str, batch: int, max_seq_len: int | None, max_input_len: int | None, as_json: bool
) -> None:
    """Say what MODEL takes, from its configuration and the headers of its weights alone.

    MODEL is a checkpoint, an export, a config.json, or the name of a known model; an unknown name lists them.
    """
    from r1trt.estimate.estimate import estimate_of
    from r1trt.estimate.placement import Use
    from r1trt.estimate.source import sized_model
    from r1trt.export.export import export_capacity

    sized = sized_model(model)
    capacity = export_capacity(sized.config, max_seq_len, where=model)
    use = Use(
        batch=batch,
        max_seq_len=capacity,
        max_input_len=max_input_len or min(DEFAULT_INPUT_LEN, capacity),
    )
    result = estimate_of(sized, use, Path.cwd())
    print_result(result.to_json(), list(estimate_lines(result)), as_json=as_json)


def estimate_lines(estimate: Estimate) -> Iterator[str]:
    """An estimate as a page of text."""
    yield f"{estimate.name}: {estimate.architecture}, {estimate.num_layers} layers"
    yield from fact_lines(_facts(estimate))
    use = estimate.use
    yield from ("", f"Steps on this machine ({size_text(estimate.memory.total)} of memory):")
    yield from _step_lines(estimate)
    yield from (
        "",
        f"Devices for {use.batch} x {use.max_seq_len} tokens; prefill of {use.max_input_len}, decode with a "
        "full cache, at best:",
    )
    yield from _device_lines(estimate.placements)


def _facts(estimate: Estimate) -> Mapping[str, str]:
    stored = sum(estimate.stored_bytes.values())
    origin = "" if estimate.from_headers else ", by config.json; no weights were seen"
    active = f", {count_text(estimate.active_parameters)} of them a token"
    is_sparse = estimate.active_parameters != estimate.parameters
    weights = {
        f"weights in {precision}": _bytes_text(types) for precision, types in estimate.weight_bytes.items()
    }
    return {
        "parameters": count_text(estimate.parameters) + (active if is_sparse else ""),
        "stored": f"{size_text(stored)} ({', '.join(sorted(estimate.stored_bytes))}){origin}",
        **weights,
        "KV cache": _cache_text(estimate),
    }


def _bytes_text(types: Mapping[str, int]) -> str:
    parts = sorted(types.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{name} {size_text(size)}" for name, size in parts if size >= 1000)
    return f"{size_text(sum(types.values()))} ({listed})"


def _cache_text(estimate: Estimate) -> str:
    cache, use = estimate.kv_cache["bf16"], estimate.use
    whole = ""
    if cache.decompressed_token_bytes != cache.token_bytes:
        whole = f" (keys and values of all heads would be {size_text(cache.decompressed_token_bytes)})"
    total = size_text(cache.bytes(use.batch, use.max_seq_len))
    return (
        f"{size_text(cache.token_bytes)} a token in bf16 or fp16{whole}; {total} for {use.batch} x "
        f"{use.max_seq_len}; twice that in fp32"
    )


def _step_lines(estimate: Estimate) -> Iterator[str]:
    rows = [
        (
            item.step.name,
            _memory_text(item.step),
            size_text(item.step.disk),
            duration_text(item.step.seconds),
            f"no; {', '.join(item.obstacles)}" if item.obstacles else "yes",
        )
        for item in estimate.steps
    ]
    yield from table_lines(("step", "memory", "disk", "about", "possible here"), rows)


def _memory_text(step: Step) -> str:
    """What is the least, where a part of the peak can be done without."""
    if step.least_memory == step.memory:
        return size_text(step.memory)
    return f"{size_text(step.least_memory)} to {size_text(step.memory)}"


def _device_lines(placements: tuple[Placement, ...]) -> Iterator[str]:
    header = ("device", "precision", "engine", "KV cache", "count", "prefill ms", "decode ms", "tokens/s")
    rows = [
        (
            item.device,
            item.precision,
            size_text(item.engine_bytes),
            size_text(item.kv_bytes),
            "too large" if item.count is None else str(item.count),
            round(1000 * item.prefill_seconds, 2),
            round(1000 * item.decode_seconds, 2),
            round(item.batch / item.decode_seconds, 1),
        )
        for item in placements
    ]
    yield from table_lines(header, rows)
