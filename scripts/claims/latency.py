"""Whether a token can take 1.2 ms on an A100: what the data sheet allows, by the cost table's roofline.

Nothing is run: the article names neither the model nor the batch, so that every known shape is asked, for
one sequence alone, for the least batch that is as fast a token, and in prefill.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from claims.row import Options, Row, figure_of, save_figure
from r1trt.arch import BuildPrecision
from r1trt.estimate.gpus import DEVICES
from r1trt.estimate.placement import Placement, Use, placement
from r1trt.estimate.planned import PlannedModel, planned_model
from r1trt.estimate.source import sized_model
from r1trt.estimate.times import seconds_of_call
from r1trt.ops.cost import CallSize

CLAIMED_MS = 1.2


@dataclass(frozen=True, kw_only=True)
class LatencyConfig:
    """What is asked.

    Attributes:
        device: Whose roofline.
        models: Known shapes, in the order of their size.
        precisions: Types of the weights.
        prompt_tokens: Of a prefill call.
        context: Tokens of each sequence's cache in decode.
        batches: Sequences at a time that are tried.
    """

    device: str = "a100"
    models: tuple[str, ...] = (
        "smollm2-135m",
        "r1-distill-qwen-1.5b",
        "v2-lite",
        "r1-distill-qwen-7b",
        "r1-distill-qwen-14b",
        "r1-distill-qwen-32b",
        "r1-70b",
        "r1-671b",
    )
    precisions: tuple[BuildPrecision, ...] = ("bf16", "int8")
    prompt_tokens: int = 512
    context: int = 640
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def measure(options: Options) -> dict[str, Any]:
    """Asks the roofline; the same, reduced or not, for it takes seconds."""
    config = LatencyConfig()
    rows = [_row(config, model, precision) for model in config.models for precision in config.precisions]
    device = DEVICES[config.device]
    step_bytes = device.reachable_bandwidth * CLAIMED_MS / 1000
    return {
        "config": asdict(config),
        "claimed_ms": CLAIMED_MS,
        "bytes_in_time": step_bytes,
        "rows": rows,
    }


def _row(config: LatencyConfig, model: str, precision: BuildPrecision) -> dict[str, Any]:
    device = DEVICES[config.device]
    planned = planned_model(sized_model(model), device.arch, precision, config.context)
    placed = {batch: _placed(config, planned, batch) for batch in config.batches}
    alone = placed[1]
    ms = {batch: 1000 * at.decode_seconds / batch for batch, at in placed.items()}
    enough = next((batch for batch in config.batches if ms[batch] <= CLAIMED_MS), None)
    prompt = CallSize(batch=1, tokens=config.prompt_tokens)
    prefill = seconds_of_call(planned, prompt, device, alone.count or 1)
    return {
        "model": model,
        "precision": precision,
        "weight_bytes": planned.bytes,
        "cards": alone.count,
        "decode_ms": ms[1],
        "least_batch": enough,
        "cards_at_least_batch": None if enough is None else placed[enough].count,
        "prefill_ms_a_token": 1000 * prefill / config.prompt_tokens,
    }


def _placed(config: LatencyConfig, planned: PlannedModel, batch: int) -> Placement:
    use = Use(batch=batch, max_seq_len=config.context, max_input_len=config.prompt_tokens)
    return placement(planned, DEVICES[config.device], use)


def page(document: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    config = document["config"]
    lines = [
        f"In {document['claimed_ms']} ms an A100 moves {document['bytes_in_time'] / 1e9:.2f} GB at the "
        "bandwidth that good kernels reach (90 % of the data sheet's): a step that reads more weights than",
        "this takes longer, whatever the kernels. By the cost table, one call without gaps; cards share the "
        "work evenly and for nothing;",
        f"{config['prompt_tokens']} tokens of prompt, {config['context']} of cache. `least batch`: sequences "
        "at a time from which on a step's time over its tokens is within the claim.",
        "",
        "| model | weights | GB | cards that hold it | decode alone, ms a token | least batch (cards) | "
        "prefill, ms a token |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in document["rows"]:
        batch = row["least_batch"]
        at = "none tried" if batch is None else f"{batch} ({row['cards_at_least_batch']})"
        lines.append(
            f"| {row['model']} | {row['precision'].upper()} | {row['weight_bytes'] / 1e9:.1f} | "
            f"{row['cards']} | {row['decode_ms']:.2f} | {at} | {row['prefill_ms_a_token']:.3f} |"
        )
    return "\n".join(lines)


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Time of a token over the bytes of the weights, and the claim as a line."""
    figure, (axis,) = figure_of(1)
    for precision in document["config"]["precisions"]:
        rows = [row for row in document["rows"] if row["precision"] == precision]
        sizes = [row["weight_bytes"] / 1e9 for row in rows]
        axis.plot(sizes, [row["decode_ms"] for row in rows], "o", label=f"decode alone, {precision.upper()}")
    axis.axhline(CLAIMED_MS, color="black", linestyle="--", label="the article's 1.2 ms")
    axis.set(xscale="log", yscale="log", xlabel="GB of weights", ylabel="ms a token, at best")
    axis.set_title("A100, by the roofline, on as many cards as hold the model")
    axis.legend()
    save_figure(figure, path)


ROW = Row(name="latency", measure=measure, page=page, draw=draw)
