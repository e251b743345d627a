"""Positions past the trained length: loss and recall at 1, 2 and 4 times of it, by how RoPE is continued.

The temperature is 1 up to the trained length, so that one training serves all ways to continue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from training_loop import Schedule, train

from claims.attention import Pattern, with_pattern
from claims.language import code_text
from claims.recall import IGNORED, RecallTask, recall_batch, recall_loss
from claims.row import Options, Row, by_variant, effort, figure_of, measured_trials, save_figure, spread
from claims.small_model import SmallModel, config_of, small_model
from claims.text_loss import bits_by_position, loss_of, random_windows
from r1trt.families import model_config_from_dict
from r1trt.model import R1AsaForCausalLM
from r1trt.model.rope import DynamicRope

TASK = RecallTask()
PARTS = {"recall": 4, "language": 8}  # of the trained length, that a figure each is given for


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A training at one length, and the lengths that its model is then read at.

    Attributes:
        task: `language` or `recall`.
        sizes: Of the model; its longest sequence is the trained one.
        steps: Steps, at most 64 tokens long for the first third.
        tokens: Of a step.
        learning_rate: The highest.
        factors: Lengths that are read, in trained ones.
        count: Sequences of the longest that are measured; of text as many more of the shorter ones, so that
            all read the same bytes.
    """

    task: str
    sizes: SmallModel
    steps: int
    tokens: int = 2048
    learning_rate: float = 5e-3
    factors: tuple[int, ...] = (1, 2, 4)
    count: int = 31

    @property
    def trained(self) -> int:
        """The longest sequence of the training."""
        return self.sizes.max_positions


LANGUAGE = SmallModel(vocab_size=272, hidden_size=128, inner=256, max_positions=256)
TRIALS: Mapping[str, Trial] = {
    "recall": Trial(
        task="recall",
        sizes=SmallModel(vocab_size=TASK.vocab_size, max_positions=256),
        steps=320,
        count=128,
    ),
    "language": Trial(task="language", sizes=LANGUAGE, steps=320),
}


def ropes(trial: Trial) -> dict[str, DynamicRope]:
    """The ways to continue RoPE past the trained length."""
    plain = config_of(trial.sizes)
    longest = trial.trained * max(trial.factors)
    warm = {"rope_temperature_alpha": 0.1, "original_max_position_embeddings": trial.trained}
    yarn = {
        "rope_type": "yarn",
        "rope_theta": trial.sizes.theta,
        "factor": float(max(trial.factors)),
        "original_max_position_embeddings": trial.trained,
    }
    ways: dict[str, dict[str, Any]] = {
        "alpha 0": {},
        "alpha 0.1": warm,
        "alpha 1": {**warm, "rope_temperature_alpha": 1.0},
        "YaRN": {"rope_parameters": yarn},
        "YaRN, alpha 0.1": {**warm, "rope_parameters": yarn},
    }
    return {
        name: DynamicRope(model_config_from_dict({**plain, **way}, where=Path("config.json")), longest)
        for name, way in ways.items()
    }


def train_and_measure(trial: Trial, seed: int) -> dict[str, Any]:
    """Trains a model of a seed, then reads longer sequences with it in every way."""
    pattern = Pattern(kind="full", key_width=3 if trial.task == "recall" else 0)
    module = with_pattern(small_model(trial.sizes, seed), pattern)
    loss_at = partial(_loss_at, module, trial, torch.Generator().manual_seed(seed))
    train(module, loss_at, Schedule(steps=trial.steps, learning_rate=trial.learning_rate, warmup_steps=30))
    module.eval()
    read = _bits if trial.task == "language" else _accuracies
    measured = {}
    for name, rope in ropes(trial).items():
        module.rope = rope
        measured[name] = {str(factor): read(module, trial, factor) for factor in trial.factors}
    return {"ways": measured}


def _loss_at(module: R1AsaForCausalLM, trial: Trial, generator: torch.Generator, step: int) -> Tensor:
    length = min(64, trial.trained) if step < trial.steps // 3 else trial.trained
    rows = max(1, trial.tokens // length)
    if trial.task == "language":
        return loss_of(module, random_windows(code_text()[0], rows, length, generator))
    return recall_loss(module, recall_batch(TASK, rows, length, generator))


def _bits(module: R1AsaForCausalLM, trial: Trial, factor: int) -> list[float]:
    """Bits per byte by eighths of the trained length."""
    length, part = trial.trained * factor, trial.trained // PARTS[trial.task]
    count = trial.count * max(trial.factors) // factor
    return bits_by_position(module, code_text()[1], length, range(part, length + 1, part), count)


@torch.no_grad()
def _accuracies(module: R1AsaForCausalLM, trial: Trial, factor: int) -> list[float]:
    """Share of right answers at questions by quarters of the trained length, at every such position."""
    length, part = trial.trained * factor, trial.trained // PARTS[trial.task]
    generator = torch.Generator().manual_seed(1_000_003)
    right, place = [], []
    rows = max(1, 2048 // length)
    for _ in range(0, trial.count, rows):
        batch = recall_batch(TASK, rows, length, generator)
        asked = batch.targets != IGNORED
        right.append((module(batch.ids).argmax(-1) == batch.targets)[asked].double())
        place.append(asked.nonzero()[:, 1] // part)
    right_Q, place_Q = torch.cat(right), torch.cat(place)
    return [float(right_Q[place_Q == i].mean()) for i in range(length // part)]


def measure(options: Options) -> dict[str, Any]:
    """Trains all variants with one seed, then with the next."""
    trials = TRIALS
    if options.reduced:
        trials = {name: _reduced(trial) for name, trial in TRIALS.items()}
    return measured_trials(ROW.name, trials, train_and_measure, options)


def _reduced(trial: Trial) -> Trial:
    sizes = replace(trial.sizes, max_positions=64)
    return replace(trial, steps=3, tokens=256, count=4, sizes=sizes)


UNITS = {"recall": "answers right", "language": "bits per byte"}


def page(document: Mapping[str, Any]) -> str:
    """Two tables for each task, at 1, 2 and 4 times the trained length: all positions, and the last."""
    lines = [effort(document)]
    for name, results in by_variant(document).items():
        last = TRIALS[name].trained // PARTS[TRIALS[name].task]
        lines += ["", *_table(name, results, "all positions", slice(None))]
        lines += ["", *_table(name, results, f"the last {last} positions", slice(-1, None))]
    return "\n".join(lines)


def _table(name: str, results: Sequence[Mapping[str, Any]], where: str, parts: slice) -> list[str]:
    trial = TRIALS[name]
    form = ".1%" if trial.task == "recall" else ".3f"
    lines = [
        f"{name.capitalize()}, trained on {trial.trained} tokens: {UNITS[trial.task]} over {where}, "
        f"{len(results)} seed(s).",
        "",
        f"| way | {' | '.join(f'{factor * trial.trained} tokens' for factor in trial.factors)} |",
        f"|---|{'---|' * len(trial.factors)}",
    ]
    for way, lengths in results[0]["ways"].items():
        cells = [spread([mean(r["ways"][way][length][parts]) for r in results], form) for length in lengths]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines


def draw(document: Mapping[str, Any], path: Path) -> None:
    """What is measured by position, at the longest length, a panel a task; means of the seeds."""
    variants = by_variant(document)
    figure, axes = figure_of(max(1, len(variants)))
    for axis, (name, results) in zip(axes, variants.items(), strict=False):
        part = TRIALS[name].trained / PARTS[TRIALS[name].task]
        for way, lengths in results[0]["ways"].items():
            longest = list(lengths)[-1]
            places = zip(*(result["ways"][way][longest] for result in results), strict=True)
            means = [mean(values) for values in places]
            axis.plot([part * (i + 0.5) for i in range(len(means))], means, marker=".", label=way)
        axis.axvline(TRIALS[name].trained, color="grey", linewidth=0.8, linestyle=":")
        axis.set(title=name, xlabel="position", ylabel=UNITS[TRIALS[name].task])
        axis.legend(fontsize=7)
    save_figure(figure, path)


ROW = Row(name="temperature", measure=measure, page=page, draw=draw)
