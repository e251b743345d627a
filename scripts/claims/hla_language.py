"""Language under hybrid-length attention: the trained model of `tests/data` goes on under each pattern.

It was trained with the mixture as the formula has it, `first_to_first`, no budget: that form starts ahead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from training_loop import descend, optimizer_of, rate_at

from claims.attention import Pattern, attentions_of, share_of, with_pattern
from claims.budget import Budget, allowed_opening
from claims.language import code_text
from claims.row import (
    REPOSITORY,
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
from claims.text_loss import bits_by_position, loss_of, random_windows
from r1trt.config import GqaConfig, InterBlock, ModelConfig
from r1trt.model import R1AsaForCausalLM, load_checkpoint
from r1trt.model.attention import LambdaGate

CHECKPOINT = REPOSITORY / "tests" / "data" / "r1_asa_bytes"
NO_BUDGET = Budget()
PART = 64  # positions that a loss is given for


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How a training goes on under a pattern.

    Attributes:
        pattern: The attention.
        inter_block: Form of the block branch.
        budget: Of the gates.
        steps: More steps; 0 measures the model as it stands.
        rows: Sequences of a step.
        length: Of the sequences, in training and in measurement.
        learning_rate: The highest.
        count: Windows of held-out text that are measured.
        gate_alone: The budget moves the gates and nothing before them: the model knows its language already.
    """

    pattern: Pattern
    inter_block: InterBlock = "first_to_first"
    budget: Budget = NO_BUDGET
    steps: int = 120
    rows: int = 2
    length: int = 512
    learning_rate: float = 3e-4
    count: int = 32
    gate_alone: bool = True


def _budgeted(share: float, inter_block: InterBlock) -> Trial:
    budget = Budget(share=share, begin=-0.5, end=0.0, strength=5.0)  # from the first step on
    return Trial(pattern=Pattern(kind="hla"), inter_block=inter_block, budget=budget)


TRIALS: Mapping[str, Trial] = {
    "full": Trial(pattern=Pattern(kind="full")),
    "hla-23-first": _budgeted(0.23, "first_to_first"),
    "hla-23-all": _budgeted(0.23, "all_to_first"),
    "window-64": Trial(pattern=Pattern(kind="window", window=64)),
    "block-first": Trial(pattern=Pattern(kind="block")),
    "block-all": Trial(pattern=Pattern(kind="block"), inter_block="all_to_first"),
    "hla-unbounded": Trial(pattern=Pattern(kind="hla")),
    "stands": Trial(pattern=Pattern(kind="hla"), steps=0),
    "stands-decided": Trial(pattern=Pattern(kind="hla"), steps=0, budget=Budget(share=0.999)),
    "stands-full": Trial(pattern=Pattern(kind="full"), steps=0),
    "hla-12-first": _budgeted(0.12, "first_to_first"),
}


def train_and_measure(trial: Trial, seed: int) -> dict[str, Any]:
    """Goes on training with batches of a seed; returns bits per byte, by position too, and the share."""
    module = load_checkpoint(CHECKPOINT, torch.float32)
    module.config = _with_form(module.config, trial.inter_block)
    with_pattern(module, trial.pattern).train()
    losses = _train(module, trial, torch.Generator().manual_seed(seed))
    shares: list[float] = []
    module.eval().register_forward_hook(lambda *_: shares.append(share_of(module)))
    edges = range(PART, trial.length + 1, PART)
    by_position = bits_by_position(module, code_text()[1], trial.length, edges, trial.count)
    return {
        "losses": losses,
        "bits_per_byte": mean(by_position),
        "by_position": by_position,
        "share": mean(shares),
        "opened": [float(each.opened) for each in attentions_of(module)],
    }


def _with_form(config: ModelConfig, inter_block: InterBlock) -> ModelConfig:
    layers = []
    for layer in config.layers:
        assert isinstance(layer.attention, GqaConfig)
        hla = replace(layer.attention.hla, inter_block=inter_block)
        layers.append(replace(layer, attention=replace(layer.attention, hla=hla)))
    return replace(config, layers=tuple(layers))


def _train(module: R1AsaForCausalLM, trial: Trial, generator: torch.Generator) -> list[float]:
    """Returns the loss of every fifth step, in nats."""
    allowed = allowed_opening(trial.budget.share, trial.length, attentions_of(module)[0].hla)
    for attention in attentions_of(module):
        attention.gate_alone = trial.gate_alone
    if trial.budget.share < 1 and trial.steps:
        _close(module, trial, generator)
    optimizer, losses = optimizer_of(module), []
    for step in range(trial.steps):
        done = step / trial.steps
        trial.budget.prepare(module, done)
        loss: Tensor = loss_of(module, random_windows(code_text()[0], trial.rows, trial.length, generator))
        excess = trial.budget.excess(module, done, allowed)
        descend(loss + excess, module, optimizer, rate_at(trial.learning_rate, step, done, 5))
        losses.append(round(float(loss.detach()), 4))
    trial.budget.prepare(module, 1.0)
    return losses[::5]


@torch.no_grad()
def _close(module: R1AsaForCausalLM, trial: Trial, generator: torch.Generator) -> None:
    """Lowers all gates by one number, so that those open are within the budget on text of the training."""
    ids = random_windows(code_text()[0], trial.rows, trial.length, generator)[:, :-1]
    biases = [gate.bias for gate in module.modules() if isinstance(gate, LambdaGate)]
    before = [bias.clone() for bias in biases]
    trial.budget.prepare(module.eval(), 1.0)
    low, high = 0.0, 30.0
    for _ in range(12):
        middle = (low + high) / 2
        for bias, value in zip(biases, before, strict=True):
            bias.copy_(value - middle)
        module(ids)
        low, high = (middle, high) if share_of(module) > trial.budget.share else (low, middle)
    module.train()


def measure(options: Options) -> dict[str, Any]:
    """Trains all variants with one seed, then with the next."""
    trials = TRIALS
    if options.reduced:
        trials = {name: replace(trial, steps=2, rows=1, length=64, count=2) for name, trial in TRIALS.items()}
    return measured_trials(ROW.name, trials, train_and_measure, options)


def page(document: Mapping[str, Any]) -> str:
    """The table: a variant a line, the mean of the seeds and the least and the most of them."""
    lines = [
        effort(document),
        "Bits per held-out byte of Python's standard library; share: query-key products computed, of those "
        "of full attention.",
        "",
        "| variant | more steps | seeds | share | bits per byte | bytes 1-64 | bytes 449-512 |",
        "|---|---:|---:|---:|---|---:|---:|",
    ]
    for name, results in by_variant(document).items():
        ends = [mean(result["by_position"][place] for result in results) for place in (0, -1)]
        cells = [
            *(name, str(TRIALS[name].steps), str(len(results)), f"{mean(column(results, 'share')):.1%}"),
            *(spread(column(results, "bits_per_byte"), ".4f"), *(f"{end:.3f}" for end in ends)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Bits per byte against share of arithmetic, and by position."""
    figure, (by_share, by_place) = figure_of(2)
    for index, (name, results) in enumerate(by_variant(document).items()):
        share, bits = column(results, "share"), column(results, "bits_per_byte")
        bars = [[mean(bits) - min(bits)], [max(bits) - mean(bits)]]
        marker = "os^vDP*X<>hdp"[index % 13]
        by_share.errorbar(mean(share), mean(bits), yerr=bars, fmt=marker, capsize=3, label=name)
        places = zip(*column(results, "by_position"), strict=True)
        means = [mean(values) for values in places]
        by_place.plot([PART * (i + 0.5) for i in range(len(means))], means, marker=marker, label=name)
    by_share.axvline(0.23, color="grey", linewidth=0.8, linestyle=":")
    by_share.set(xlabel="share of full attention's products", ylabel="bits per byte", xlim=(0, 1.12))
    by_place.set(xlabel="position", ylabel="bits per byte")
    by_share.legend(fontsize=7)
    save_figure(figure, path)


ROW = Row(name="hla-language", measure=measure, page=page, draw=draw)
