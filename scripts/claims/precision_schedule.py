"""Whether FP8 products, BF16 activations and FP32 norms double an H100's rate: the cost table's answer.

The same model in BF16 and by the schedule, in prefill and in decode of several batches: operations a second
at the data sheet's rates and at those that a GPU has shown (a receipt of `r1trt plugins check`), with
conversions for nothing, as the article has it, and with a kernel of its own for each converted value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from claims.row import REPOSITORY, Options, Row, figure_of, save_figure
from r1trt.data_types import DATA_TYPES
from r1trt.estimate.gpus import DEVICES, Device
from r1trt.estimate.planned import PlannedModel, planned_model
from r1trt.estimate.source import sized_model
from r1trt.estimate.times import OPERATIONS_OF_MAC, seconds_of_call
from r1trt.ops.cost import CallSize
from r1trt.ops.registry import layer_operator_of
from r1trt.precision.checks import layer_nodes

CLAIMED = (65.0, 132.0)
_CONVERSION_BYTES = DATA_TYPES["bf16"].bytes + DATA_TYPES["fp8_e4m3"].bytes


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """What is compared.

    Attributes:
        device: Whose data sheet.
        receipt: The GPU whose measured rates are taken besides.
        models: Known shapes.
        prompts: Tokens of one prompt, for prefill calls.
        batches: Sequences of decode calls.
        context: Tokens of each one's cache.
    """

    device: str = "h100"
    receipt: str = "docs/benchmarks/operators_nvidia-h200_2026-11-28_first.json"
    models: tuple[str, ...] = ("r1-distill-llama-8b", "r1-70b")
    prompts: tuple[int, ...] = (512, 2048, 8192)
    batches: tuple[int, ...] = (1, 4, 8, 16, 22, 32, 64, 128, 256)
    context: int = 640


def measure(options: Options) -> dict[str, Any]:
    """Asks the cost table; the same, reduced or not, for it takes seconds."""
    config = ScheduleConfig()
    receipt = json.loads((REPOSITORY / config.receipt).read_text(encoding="utf-8"))
    ceilings = receipt["stages"]["time"]["ceilings"]
    devices = {"data sheet": DEVICES[config.device], "measured": _measured(config, ceilings)}
    calls = [("prefill", CallSize(batch=1, tokens=tokens)) for tokens in config.prompts]
    calls += [("decode", CallSize(batch=b, tokens=1, past=config.context - 1)) for b in config.batches]
    rows = [
        {"model": model, "phase": phase, "call": asdict(call), **_rates(config, model, call, devices)}
        for model in config.models
        for phase, call in calls
    ]
    return {
        "config": asdict(config),
        "claimed_teraflops": CLAIMED,
        "gpu": receipt["gpu"],
        "ceilings": {name: ceilings[name] for name in ("copy", "bf16", "fp8")},
        "rows": rows,
    }


def _measured(config: ScheduleConfig, ceilings: Mapping[str, float]) -> Device:
    """The device at rates that large products and copies reached on a GPU."""
    device = DEVICES[config.device]
    rates = {**device.operations, "bf16": ceilings["bf16"], "fp8_e4m3": ceilings["fp8"]}
    return replace(
        device, operations=rates, bandwidth=ceilings["copy"], reached_bandwidth=1.0, reached_operations=1.0
    )


def _rates(
    config: ScheduleConfig, model: str, call: CallSize, devices: Mapping[str, Device]
) -> dict[str, dict[str, float]]:
    capacity = max(*config.prompts, config.context)
    plain, scheduled = (
        planned_model(sized_model(model), "hopper", precision, capacity) for precision in ("bf16", "fp8")
    )
    operations = OPERATIONS_OF_MAC * sum(
        count * macs for cost, count in plain.work(call) for macs in cost.macs.values()
    )
    found = {}
    for name, device in devices.items():
        seconds = [seconds_of_call(planned, call, device) for planned in (plain, scheduled)]
        converting = _conversion_bytes(scheduled, call) / device.reachable_bandwidth
        found[name] = {
            "bf16_teraflops": operations / seconds[0] / 1e12,
            "scheduled_teraflops": operations / seconds[1] / 1e12,
            "gain": seconds[0] / seconds[1],
            "gain_with_conversions": seconds[0] / (seconds[1] + converting),
        }
    return found


def _conversion_bytes(planned: PlannedModel, call: CallSize) -> int:
    """Bytes that converting every product's input in a kernel of its own moves; readers of one share it."""
    total, seen = 0, set()
    for name, node in layer_nodes(planned.sample.model).items():
        operator, layer = layer_operator_of(node), planned.plan.layers[name]
        value = node.inputs[0]
        if operator is None or layer.input != "fp8_e4m3" or value in seen:
            continue
        seen.add(value)
        width = operator.spec_from_node(node).in_features
        total += planned.sample.count(name) * call.batch * call.tokens * width * _CONVERSION_BYTES
    return total


def page(document: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    ceilings, (before, after) = document["ceilings"], document["claimed_teraflops"]
    lines = [
        "TFLOP/s of a whole model by the cost table: BF16, then FP8 products with BF16 activations and FP32 "
        f"norms; the article says {before:g} and {after:g}, {after / before:.2f} times.",
        "*Gain*: with conversions for nothing; *converting*: each product's input converted by a kernel of "
        "its own. *Measured* takes the rates that an",
        f"{document['gpu']} reached with large products and copies: {ceilings['bf16'] / 1e12:.0f} TFLOP/s in "
        f"BF16, {ceilings['fp8'] / 1e12:.0f} in FP8, {ceilings['copy'] / 1e12:.2f} TB/s.",
        "",
        "| model | call | BF16 | schedule | gain | converting | measured: BF16 | schedule | gain | "
        "converting |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in document["rows"]:
        call = row["call"]
        size = f"{call['tokens']} tokens" if row["phase"] == "prefill" else f"batch {call['batch']}"
        cells = [_cells(row[name]) for name in ("data sheet", "measured")]
        lines.append(f"| {row['model']} | {row['phase']}, {size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(rates: Mapping[str, float]) -> str:
    speeds = (f"{rates[name]:.1f}" for name in ("bf16_teraflops", "scheduled_teraflops"))
    gains = (f"{rates[name]:.2f}" for name in ("gain", "gain_with_conversions"))
    return " | ".join([*speeds, *gains])


def draw(document: Mapping[str, Any], path: Path) -> None:
    """TFLOP/s in decode over the batch, in both types, and the article's two numbers."""
    models = document["config"]["models"]
    figure, axes = figure_of(len(models))
    for axis, model in zip(axes, models, strict=True):
        rows = [row for row in document["rows"] if (row["model"], row["phase"]) == (model, "decode")]
        batches = [row["call"]["batch"] for row in rows]
        for name, label in (("bf16_teraflops", "BF16"), ("scheduled_teraflops", "FP8, BF16, FP32")):
            axis.plot(batches, [row["data sheet"][name] for row in rows], "o-", label=label)
        for claimed in document["claimed_teraflops"]:
            axis.axhline(claimed, color="black", linestyle="--", linewidth=0.8)
        axis.set(xscale="log", yscale="log", xlabel="sequences at a time", ylabel="TFLOP/s, at best")
        axis.set_title(f"{model}, decode on an H100, by the roofline")
        axis.legend()
    save_figure(figure, path)


ROW = Row(name="precision-schedule", measure=measure, page=page, draw=draw)
