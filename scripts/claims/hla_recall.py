"""Retrieval under hybrid-length attention: accuracy of associative recall against the share of arithmetic.

All variants have a convolution of three tokens over the keys, which makes a value's key findable: without it
the same recall takes thousands of steps to be learned by any of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from training_loop import descend, optimizer_of, rate_at

from claims.attention import Pattern, attentions_of, share_of, with_pattern
from claims.budget import Budget, allowed_opening
from claims.recall import IGNORED, RecallTask, recall_batch, recall_loss
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
from claims.small_model import SmallModel, small_model
from r1trt.model import R1AsaForCausalLM

TASK, NO_BUDGET = RecallTask(), Budget()
SIZES = SmallModel(vocab_size=TASK.vocab_size)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training and what it is measured on; the seed apart.

    Attributes:
        pattern: The attention.
        budget: Of the gates.
        task: What is recalled.
        sizes: Of the model.
        phases: Steps, rows and length, one after the other.
        learning_rate: The highest.
        eval_rows: Sequences of the last phase's length that accuracy is measured on.
        edges: Distances between the ranges that accuracy is given for.
    """

    pattern: Pattern
    budget: Budget = NO_BUDGET
    task: RecallTask = TASK
    sizes: SmallModel = SIZES
    phases: Sequence[tuple[int, int, int]] = ((120, 32, 64), (40, 16, 128), (60, 8, 256), (200, 4, 512))
    learning_rate: float = 5e-3
    eval_rows: int = 128
    edges: Sequence[int] = field(default=(32, 64, 128, 256))

    @property
    def length(self) -> int:
        """Of the sequences that are measured."""
        return self.phases[-1][2]


LONG = ((120, 32, 64), (40, 16, 128), (60, 8, 256), (100, 4, 512), (60, 2, 1024), (100, 2, 2048))
LONG_EDGES = (32, 64, 128, 256, 512, 1024)
REDUCED = ((2, 4, 64), (2, 2, 128))


def _pattern(kind: Any, **fields: int) -> Pattern:
    return Pattern(kind=kind, **{"key_width": 3, **fields})


def _budgeted(share: float, inter_block: str) -> Trial:
    sizes = replace(SIZES, inter_block=inter_block)
    return Trial(pattern=_pattern("hla"), sizes=sizes, budget=Budget(share=share))


def _long(trial: Trial) -> Trial:
    sizes = replace(trial.sizes, max_positions=LONG[-1][2])
    return replace(trial, sizes=sizes, phases=LONG, edges=LONG_EDGES, eval_rows=64)


ALL_TO_FIRST = replace(SIZES, inter_block="all_to_first")
SHORT: Mapping[str, Trial] = {
    "full": Trial(pattern=_pattern("full")),
    "hla-23-first": _budgeted(0.23, "first_to_first"),
    "hla-23-all": _budgeted(0.23, "all_to_first"),
    "window-64": Trial(pattern=_pattern("window", window=64)),
    "routed-1": Trial(pattern=_pattern("routed", routed=1)),
    "block-first": Trial(pattern=_pattern("block")),
    "block-all": Trial(pattern=_pattern("block"), sizes=ALL_TO_FIRST),
    "hla-12-first": _budgeted(0.12, "first_to_first"),
    "hla-12-all": _budgeted(0.12, "all_to_first"),
    "hla-08-first": _budgeted(0.08, "first_to_first"),
    "hla-unbounded": Trial(pattern=_pattern("hla")),
    "routed-2": Trial(pattern=_pattern("routed", routed=2)),
    "full-plain-keys": Trial(pattern=_pattern("full", key_width=0)),
}
TRIALS: Mapping[str, Trial] = {
    **SHORT,
    "full-2048": _long(SHORT["full"]),
    "hla-23-first-2048": _long(SHORT["hla-23-first"]),
    "window-256-2048": _long(Trial(pattern=_pattern("window", window=256))),
    "hla-23-all-2048": _long(SHORT["hla-23-all"]),
}


def measure(options: Options) -> dict[str, Any]:
    """Trains all variants with one seed, then with the next."""
    trials = TRIALS
    if options.reduced:
        trials = {name: replace(trial, phases=REDUCED, eval_rows=16) for name, trial in TRIALS.items()}
    return measured_trials(ROW.name, trials, train_and_measure, options)


def train_and_measure(trial: Trial, seed: int) -> dict[str, Any]:
    """Trains a model of a seed; returns its accuracy, by distance too, and its share of arithmetic."""
    module = with_pattern(small_model(trial.sizes, seed), trial.pattern)
    losses = _train(module, trial, torch.Generator().manual_seed(seed))
    return {"losses": losses, **_measure(module.eval(), trial)}


def _train(module: R1AsaForCausalLM, trial: Trial, generator: torch.Generator) -> list[float]:
    """Returns the mean loss of every tenth of the steps."""
    plan = [phase[1:] for phase in trial.phases for _ in range(phase[0])]
    allowed = allowed_opening(trial.budget.share, trial.length, attentions_of(module)[0].hla)
    optimizer, losses = optimizer_of(module), []
    for step, (rows, length) in enumerate(plan):
        done = step / len(plan)
        trial.budget.prepare(module, done)
        loss = recall_loss(module, recall_batch(trial.task, rows, length, generator))
        excess = trial.budget.excess(module, done, allowed)
        descend(loss + excess, module, optimizer, rate_at(trial.learning_rate, step, done, 30))
        losses.append(float(loss.detach()))
    trial.budget.prepare(module, 1.0)
    tenth = max(1, len(losses) // 10)
    return [
        round(sum(part) / len(part), 4)
        for part in (losses[i : i + tenth] for i in range(0, len(losses), tenth))
    ]


@torch.no_grad()
def _measure(module: R1AsaForCausalLM, trial: Trial) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1_000_003)  # the same questions for all
    right, distance, shares = [], [], []
    rows = max(1, 2048 // trial.length)
    for _ in range(0, trial.eval_rows, rows):
        batch = recall_batch(trial.task, rows, trial.length, generator)
        asked = batch.targets != IGNORED
        right.append((module(batch.ids).argmax(-1) == batch.targets)[asked])
        distance.append(batch.distance[asked])
        shares.append(share_of(module))
    right_Q, distance_Q = torch.cat(right).double(), torch.cat(distance)
    bucket_Q = torch.bucketize(distance_Q, torch.tensor(trial.edges), right=False)
    by_distance = [right_Q[bucket_Q == i] for i in range(len(trial.edges) + 1)]
    return {
        "accuracy": float(right_Q.mean()),
        "by_distance": [float(part.mean()) if len(part) else None for part in by_distance],
        "questions": len(right_Q),
        "share": sum(shares) / len(shares),
        "opened": [float(each.opened) for each in attentions_of(module)],
    }


def page(document: Mapping[str, Any]) -> str:
    """The table: a variant a line, the mean of the seeds and the least and the most of them."""
    variants = by_variant(document)
    lines = [
        effort(document),
        f"Chance is {1 / TASK.values:.1%}. Share: query-key products computed, of those of full attention.",
    ]
    for length in dict.fromkeys(trial.length for trial in TRIALS.values()):
        named = {name: rows for name, rows in variants.items() if TRIALS[name].length == length}
        if named:
            lines += ["", *_table(named, length)]
    return "\n".join(lines)


def _table(variants: Mapping[str, list[dict[str, Any]]], length: int) -> list[str]:
    edges = TRIALS[next(iter(variants))].edges
    ranges = [f"{low + 1}-{high}" for low, high in zip((0, *edges), (*edges, length), strict=False)]
    lines = [
        f"Sequences of {length} tokens; accuracy, and by tokens between the pair and the question:",
        "",
        f"| variant | seeds | share | accuracy | {' | '.join(ranges)} |",
        f"|---|---:|---:|---|{'---:|' * len(ranges)}",
    ]
    for name, results in variants.items():
        share, accuracy = column(results, "share"), column(results, "accuracy")
        near = [_mean_of([result["by_distance"][i] for result in results]) for i in range(len(ranges))]
        cells = [name, str(len(results)), f"{sum(share) / len(share):.1%}", spread(accuracy, ".1%"), *near]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _mean_of(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.1%}" if known else ""


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Accuracy against share of arithmetic, a panel for each length; bars from the least to the most seed."""
    variants = by_variant(document)
    lengths = list(dict.fromkeys(TRIALS[name].length for name in variants))
    figure, axes = figure_of(max(1, len(lengths)))
    for axis, length in zip(axes, lengths, strict=False):
        for index, (name, results) in enumerate(variants.items()):
            if TRIALS[name].length == length:
                share, accuracy = column(results, "share"), column(results, "accuracy")
                centre = mean(accuracy)
                bars = [[centre - min(accuracy)], [max(accuracy) - centre]]
                marker = "os^vDP*X<>hdp8+x1"[index % 17]
                label = name.removesuffix(f"-{length}")
                axis.errorbar(mean(share), centre, yerr=bars, fmt=marker, capsize=3, label=label)
        axis.axvline(0.23, color="grey", linewidth=0.8, linestyle=":")
        axis.set(title=f"{length} tokens", xlabel="share of full attention's products", ylabel="accuracy")
        axis.set(xlim=(0, 1.12), ylim=(0, 1.03))
        axis.legend(fontsize=7)
    save_figure(figure, path)


ROW = Row(name="hla-recall", measure=measure, page=page, draw=draw)
