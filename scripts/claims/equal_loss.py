"""R1-ASA beside a dense model of equal loss: throughput and memory as CPU engines, and modelled on an H100.

Dense models of several widths and one R1-ASA are trained alike, from the same text. The dense width whose
loss is R1-ASA's lies between two of them. Engines of both are timed at the trained size and at eight times
the width, and the shape of a 70-billion model with the same proportions is modelled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from claims.engines import cpu_engine, modelled, timed_engine
from claims.language import LanguageConfig, dense_keys, language_model, predictions, trained_model
from claims.row import (
    Options,
    Row,
    by_variant,
    column,
    effort,
    figure_of,
    measured_trials,
    save_figure,
    spread,
)
from claims.runs import Run

NAME = "equal-loss"
CLAIMED = {"throughput": 3.2, "memory": -0.47}
ASA = "r1-asa"
EXPERT, EXPERTS, TOP_K = 64, 8, 2
WIDTHS = (96, 192, 384, 768)
SCALE = 8
TRAINING = LanguageConfig(steps=400, length=128)
REDUCED = replace(TRAINING, steps=2, heldout_bytes=1024, hidden_size=32, num_heads=2)
PROMPT, BATCHES = 128, (1, 8)
# The shape of Llama-70B, whose MLP has the proportion of the dense model of equal loss.
LARGE = {"hidden": 8192, "layers": 80, "heads": 64, "kv_heads": 8, "width": 28672, "vocabulary": 128256}
LARGE_PROMPT, LARGE_CONTEXT, LARGE_BATCHES = 2048, 2048, (1, 8, 32, 128)


def asa_keys(scale: float) -> dict[str, Any]:
    """Keys of config.json that make R1-ASA: a lambda gate, experts, a shared one, adaptive k."""
    width = round(EXPERT * scale / 16) * 16
    return {
        "hla_gate": True, "hla_block_size": 32, "num_experts": EXPERTS, "moe_intermediate_size": width,
        "num_shared_experts": 1, "shared_intermediate_size": width, "top_k": TOP_K,
        "adaptive_threshold": 0.9, "rope_temperature_alpha": 0.1,
    }  # fmt: skip


def contenders(training: LanguageConfig) -> dict[str, LanguageConfig]:
    """What is trained, by name: R1-ASA, and dense models by their width."""
    found = {ASA: replace(training, more=asa_keys(1))}
    for width in WIDTHS:
        found[f"dense-{width}"] = replace(training, more=dense_keys(width, training.num_layers))
    return found


def measure(options: Options) -> dict[str, Any]:
    """Trains, finds the dense width of equal loss, and times and models both."""
    training = REDUCED if options.reduced else TRAINING
    document = measured_trials(NAME, contenders(training), _trained, options)
    width = equal_width(
        {name: column(found, "bits_per_byte") for name, found in by_variant(document).items()}
    )
    by_seed = [equal_width(found) for found in _bits_by_seed(document)]
    result = {"training": asdict(training), "claimed": CLAIMED, **document, "equal_width": width}
    result |= {"equal_width_by_seed": by_seed}
    if width is None:
        return result
    scales = (1,) if options.reduced else (1, SCALE)
    return {
        **result,
        "engines": [row for scale in scales for row in _engines(options, training, width, scale)],
        "h100": [
            row for each in sorted({width, *filter(None, by_seed), WIDTHS[-1]}) for row in _modelled(each)
        ],
    }


def _bits_by_seed(document: Mapping[str, Any]) -> list[dict[str, list[float]]]:
    """Bits a byte of each model by its name, a seed at a time."""
    runs = document["runs"]
    return [
        {run["variant"]: [run["result"]["bits_per_byte"]] for run in runs if run["seed"] == seed}
        for seed in sorted({run["seed"] for run in runs})
    ]


def _trained(config: LanguageConfig, seed: int) -> dict[str, Any]:
    module = trained_model(config, seed)
    bits, _ = predictions(module, config)
    parameters = sum(p.numel() for p in module.parameters())
    return {"bits_per_byte": float(bits.mean()), "parameters": parameters}


def equal_width(bits: Mapping[str, Sequence[float]]) -> int | None:
    """The dense width, a multiple of 16, with R1-ASA's mean loss; between trained ones by log width.

    Args:
        bits: Of each seed, by name.

    Returns:
        None where R1-ASA's loss is not between those of the narrowest and the widest.
    """
    losses = {name: mean(values) for name, values in bits.items()}
    widths = [width for width in WIDTHS if f"dense-{width}" in losses]
    falling = [losses[f"dense-{width}"] for width in widths]
    if ASA not in losses or not widths or not min(falling) <= losses[ASA] <= max(falling):
        return None
    for place in range(len(widths) - 1):
        left, right = falling[place : place + 2]
        if min(left, right) <= losses[ASA] <= max(left, right):
            part = (losses[ASA] - left) / (right - left) if left != right else 0.0
            log = np.interp(part, (0, 1), np.log(widths[place : place + 2]))
            return round(math.exp(log) / 16) * 16
    return None


def _engines(options: Options, training: LanguageConfig, width: int, scale: int) -> list[dict[str, Any]]:
    """Both as engines of the CPU at a scale of the trained widths; random weights take the same time."""
    sizes = replace(training, hidden_size=training.hidden_size * scale, num_heads=training.num_heads * scale)
    found = []
    for name, more in (
        (ASA, asa_keys(scale)),
        ("dense", dense_keys(width * scale, training.num_layers)),
    ):
        config = replace(sizes, more=more, length=2 * PROMPT)
        keys = {**asdict(config), "prompt": PROMPT, "batches": BATCHES}
        run = Run(row=NAME, variant=f"engine-{name}-{scale}", config=keys)
        directory = options.store.path(run, "")
        record = options.store.record(run, partial(_timed, config, directory))
        if record is not None:
            found.append({"name": name, "scale": scale, "load": record["result"]})
    return found


def _timed(config: LanguageConfig, directory: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    module = language_model(config, 0)
    parameters = sum(p.numel() for p in module.parameters())
    engine = cpu_engine(module, config.raw, directory, capacity=config.length, batch=max(BATCHES))
    return {"parameters": parameters, **timed_engine(engine, PROMPT, BATCHES)}


def _modelled(width: int) -> list[dict[str, Any]]:
    """Llama-70B's shape, and R1-ASA with experts in the proportion of the trained ones to the dense width."""
    scale = LARGE["width"] / width
    sizes = {
        "hidden_size": LARGE["hidden"], "num_hidden_layers": LARGE["layers"],
        "num_attention_heads": LARGE["heads"], "num_key_value_heads": LARGE["kv_heads"],
        "head_dim": LARGE["hidden"] // LARGE["heads"], "vocab_size": LARGE["vocabulary"],
        "max_position_embeddings": 2 * LARGE_CONTEXT,
    }  # fmt: skip
    shapes = {ASA: asa_keys(scale), "dense": dense_keys(LARGE["width"], LARGE["layers"])}
    return [
        {
            "name": name,
            "equal_width": width,
            **modelled({**TRAINING.raw, **more, **sizes}, "h100", LARGE_PROMPT, LARGE_CONTEXT, LARGE_BATCHES),
        }
        for name, more in shapes.items()
    ]


def page(document: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    training, width = document["training"], document["equal_width"]
    lines = [
        f"Byte models on the standard library's code, {training['num_layers']} layers of "
        f"{training['hidden_size']}, {training['steps']} steps of "
        f"{training['batch'] * training['length']} bytes. R1-ASA: {EXPERTS} experts of {EXPERT} and a shared "
        f"one, top {TOP_K} with adaptive k, lambda gate.",
        "",
        "| model | seeds | parameters | held-out bits a byte |",
        "|---|---:|---:|---|",
    ]
    for name, found in by_variant(document).items():
        bits = spread(column(found, "bits_per_byte"), ".4f")
        lines.append(f"| {name} | {len(found)} | {found[0]['parameters']:,} | {bits} |")
    lines += ["", effort(document)]
    if width is None:
        return "\n".join([*lines, "", "R1-ASA's loss is not between those of the dense models."])
    seeds = ", ".join(
        "not between the trained ones" if found is None else str(found)
        for found in document["equal_width_by_seed"]
    )
    equal = f"Equal loss: a dense width of {width} by the means of the seeds; by seed: {seeds}."
    return "\n".join([*lines, "", equal, "", *_speed_lines(document)])


def _speed_lines(document: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Engines of the CPU, FP32, one thread, tokens a second of processor time; prompts of {PROMPT}. "
        "Memory: weights, cache, and what is alive between layers.",
        "",
        "| widths | model | prefill, batch 1, 8 | decode, batch 1, 8 | weights, MB | memory, MB |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in document["engines"]:
        load = row["load"]
        speeds = [
            ", ".join(f"{load['speeds'][str(batch)][phase]:,.0f}" for batch in BATCHES)
            for phase in ("prefill", "decode")
        ]
        sizes = [f"{load[key] / 1e6:.1f}" for key in ("weight_bytes", "peak_bytes")]
        lines.append(f"| x {row['scale']} | {row['name']} | {' | '.join([*speeds, *sizes])} |")
    lines += [
        "",
        "Modelled in BF16 on one H100 as if it held them: Llama-70B's shape, and R1-ASA whose experts have "
        "the proportion to its MLP that they have to a dense width of equal",
        f"loss; {LARGE_CONTEXT} tokens of prompt, or of cache.",
        "",
        "| model, width of equal loss | prefill, tokens/s | decode, tokens/s, "
        f"batch {', '.join(map(str, LARGE_BATCHES))} | weights, GB | with the cache of {LARGE_BATCHES[-1]} |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in document["h100"]:
        decode = ", ".join(f"{speed:,.0f}" for speed in row["decode"].values())
        most = row["memory_bytes"][str(LARGE_BATCHES[-1])]
        lines.append(
            f"| {row['name']}, {row['equal_width']} | {row['prefill']:,.0f} | {decode} | "
            f"{row['weight_bytes'] / 1e9:.0f} | {most / 1e9:.0f} |"
        )
    return lines


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Loss over parameters, dense models as a line and R1-ASA as a point of each seed."""
    figure, (axis,) = figure_of(1)
    found = by_variant(document)
    dense = [results for name, results in found.items() if name != ASA]
    for seed in range(max(map(len, dense), default=0)):
        own = [results[seed] for results in dense if seed < len(results)]
        _plot(axis, own, "o-", color="tab:blue", label="dense, a line a seed" if seed == 0 else None)
    _plot(axis, found.get(ASA, []), "s", color="tab:red", label="R1-ASA")
    axis.set(xlabel="parameters, all of which lie in memory", ylabel="held-out bits a byte", xscale="log")
    axis.legend()
    save_figure(figure, path)


def _plot(axis: Any, results: Sequence[Mapping[str, Any]], form: str, **how: Any) -> None:
    axis.plot(column(results, "parameters"), column(results, "bits_per_byte"), form, **how)


ROW = Row(name=NAME, measure=measure, page=page, draw=draw)
