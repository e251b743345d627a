"""Adaptive k against a fixed number of experts and top-p: loss against mean experts a token, same training.

Each variant is trained from scratch with its own rule, on the same bytes from the same weights. Adaptive k
takes the fewest of the best four experts that have a share of those four's weight; top-p the fewest of all
eight that have a probability, which is the same rule with all experts as candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from claims.language import LanguageConfig, predictions, trained_model
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
from r1trt.model import R1AsaForCausalLM
from r1trt.model.moe import Router, Routing

NAME = "adaptive-k"
EXPERTS, CANDIDATES, QUINTILES = 8, 4, 5


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A rule for how many experts a token takes.

    Attributes:
        kind: fixed, divided, adaptive or top-p.
        top_k: Most experts.
        threshold: Share of their weight that is enough; 1 takes all.
    """

    kind: str
    top_k: int
    threshold: float = 1.0

    @property
    def name(self) -> str:
        """In the names of runs."""
        return f"{self.kind}-{self.threshold:g}" if self.threshold < 1 else f"{self.kind}-{self.top_k}"


# NOTES: a weight that is divided by itself is 1, and gives the router no gradient: one expert alone is only
# comparable with its weight as it is ("fixed-1"); "divided-1" is what R1-ASA's configuration would train.
VARIANTS = (
    *(Variant(kind="fixed", top_k=k) for k in (1, 2, 3, 4)),
    Variant(kind="divided", top_k=1),
    *(Variant(kind="adaptive", top_k=CANDIDATES, threshold=share) for share in (0.6, 0.8, 0.95)),
    *(Variant(kind="top-p", top_k=EXPERTS, threshold=share) for share in (0.5, 0.75)),
)
KINDS = {variant.name: variant.kind for variant in VARIANTS}
TRAINING = LanguageConfig(steps=400, length=128)
REDUCED = replace(TRAINING, steps=2, heldout_bytes=1024, hidden_size=32)


def config_of(variant: Variant, training: LanguageConfig) -> LanguageConfig:
    """The model of a variant: experts of half the width of the residual stream, and no shared one."""
    more = {
        "num_experts": EXPERTS,
        "moe_intermediate_size": training.hidden_size // 2,
        "top_k": variant.top_k,
        "adaptive_threshold": variant.threshold,
    }
    if variant.kind == "fixed" and variant.top_k == 1:
        more["norm_topk_prob"] = False
    return replace(training, more=more)


def measure(options: Options) -> dict[str, Any]:
    """Trains every variant with every seed, all variants of a seed first."""
    training = REDUCED if options.reduced else TRAINING
    trials = {variant.name: config_of(variant, training) for variant in VARIANTS}
    document = measured_trials(NAME, trials, trained_variant, options)
    return {"training": asdict(training), **document, "compared": _compared(document["runs"])}


def trained_variant(config: LanguageConfig, seed: int) -> dict[str, Any]:
    """Trains one, and measures it on the held-out text."""
    module = trained_model(config, seed)
    kept = _Kept(module)
    bits, entropy = (t.numpy() for t in predictions(module, config))
    experts = kept.mean_over_layers()
    fifth = np.argsort(np.argsort(entropy)) * QUINTILES // len(entropy)
    return {
        "bits_per_byte": float(bits.mean()),
        "experts": float(experts.mean()),
        "experts_by_layer": [float(np.concatenate(layer).mean()) for layer in kept.layers],
        "experts_by_entropy": [float(experts[fifth == i].mean()) for i in range(QUINTILES)],
        "entropy_bits": [float(entropy[fifth == i].mean()) for i in range(QUINTILES)],
        "rank_correlation": float(spearmanr(experts, entropy).statistic) if np.ptp(experts) else None,
    }


class _Kept:
    """How many experts each token took, by layer, from hooks on the routers."""

    def __init__(self, module: R1AsaForCausalLM) -> None:
        routers = [part for part in module.modules() if isinstance(part, Router)]
        self.layers: list[list[np.ndarray]] = [[] for _ in routers]
        for layer, router in zip(self.layers, routers, strict=True):
            router.register_forward_hook(partial(self._take, layer))

    @staticmethod
    def _take(layer: list[np.ndarray], module: Router, args: Any, routing: Routing) -> None:
        layer.append(routing.kept_TK.sum(-1, dtype=torch.float32).numpy())

    def mean_over_layers(self) -> np.ndarray:
        """Of each token, in the order that they were read."""
        average: np.ndarray = np.mean([np.concatenate(layer) for layer in self.layers], axis=0)
        return average


def _compared(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each adaptive run beside the fixed ones of its seed: loss at equal k, and k at equal loss."""
    rows = []
    for run in runs:
        fixed = [
            other["result"]
            for other in runs
            if other["seed"] == run["seed"] and KINDS[other["variant"]] == "fixed"
        ]
        if KINDS[run["variant"]] not in ("adaptive", "top-p") or len(fixed) < 2:
            continue
        experts = [other["experts"] for other in fixed]
        losses = [other["bits_per_byte"] for other in fixed]
        own, bits = run["result"]["experts"], run["result"]["bits_per_byte"]
        inside = experts[0] <= own <= experts[-1]
        rows.append(
            {
                "variant": run["variant"],
                "seed": run["seed"],
                "experts": own,
                "difference": bits - float(np.interp(own, experts, losses)) if inside else None,
                "fixed_k_of_equal_loss": _k_of_loss(experts, losses, bits),
            }
        )
    return rows


def _k_of_loss(experts: list[float], losses: list[float], loss: float) -> float | None:
    """The least fixed k, between whole ones, that has a loss; None where none of those trained has."""
    for place in range(len(losses) - 1):
        (k0, k1), (l0, l1) = experts[place : place + 2], losses[place : place + 2]
        if min(l0, l1) <= loss <= max(l0, l1) and l0 != l1:
            return k0 + (k1 - k0) * (loss - l0) / (l1 - l0)
    return None


def page(document: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    training = document["training"]
    lines = [
        f"Byte models on the standard library's code: {training['num_layers']} layers of "
        f"{training['hidden_size']}, {EXPERTS} experts, {training['steps']} steps of "
        f"{training['batch'] * training['length']} bytes; each rule trained with itself,",
        "every seed with its own weights and text. Held-out bits a byte and mean experts a token: mean over "
        "the seeds (least to most). *Against fixed k*: bits a byte more",
        "than fixed k at the same mean, between whole k on a line. *k by entropy*: mean experts of the fifth "
        "of tokens whose prediction is surest, up to the fifth that is",
        "least sure; and the rank correlation of both.",
        "",
        "| rule | seeds | experts a token | bits a byte | against fixed k | fixed k of equal loss | "
        "k by entropy | correlation |",
        "|---|---:|---|---|---|---|---|---|",
    ]
    lines += [_line(document, name, results) for name, results in by_variant(document).items()]
    notes = (
        "`fixed-1` leaves the weight of the one expert as it is: divided by itself, as in `divided-1`, it "
        "gives the router no gradient."
    )
    return "\n".join([*lines, "", notes, effort(document)])


def _line(document: Mapping[str, Any], name: str, results: Sequence[Mapping[str, Any]]) -> str:
    compared = [row for row in document["compared"] if row["variant"] == name]
    differences = [row["difference"] for row in compared if row["difference"] is not None]
    equal = [row["fixed_k_of_equal_loss"] for row in compared]
    by_entropy = [mean(fifth) for fifth in zip(*column(results, "experts_by_entropy"), strict=True)]
    ranks = [rank for rank in column(results, "rank_correlation") if rank is not None]
    cells = [
        name,
        str(len(results)),
        spread(column(results, "experts"), ".2f"),
        spread(column(results, "bits_per_byte"), ".4f"),
        spread(differences, "+.4f") if differences else "",
        spread(equal, ".2f") if equal and None not in equal else "",
        " ".join(f"{k:.2f}" for k in by_entropy) if ranks else "",
        spread(ranks, "+.2f") if ranks else "",
    ]
    return f"| {' | '.join(cells)} |"


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Loss over mean experts a token of each kind of rule, and k over entropy."""
    figure, (losses, entropies) = figure_of(2)
    found = by_variant(document)
    for kind in dict.fromkeys(KINDS[name] for name in found):
        own = [results for name, results in found.items() if KINDS[name] == kind]
        k = [mean(column(results, "experts")) for results in own]
        bits = [column(results, "bits_per_byte") for results in own]
        middle = [mean(each) for each in bits]
        below = [at - min(each) for at, each in zip(middle, bits, strict=True)]
        above = [max(each) - at for at, each in zip(middle, bits, strict=True)]
        losses.errorbar(k, middle, yerr=[below, above], marker="o", capsize=3, label=kind)
    for name, results in found.items():
        if KINDS[name] in ("adaptive", "top-p"):
            first = results[0]
            entropies.plot(first["entropy_bits"], first["experts_by_entropy"], "o-", label=name)
    losses.set(xlabel="mean experts a token", ylabel="held-out bits a byte")
    entropies.set(xlabel="entropy of the prediction, bits", ylabel="mean experts a token")
    losses.legend()
    entropies.legend(fontsize="small")
    save_figure(figure, path)


ROW = Row(name=NAME, measure=measure, page=page, draw=draw)
