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
from claims.row import Options, Row, figure_of, save_figure, spread
from claims.runs import Run
from r1trt.model import R1AsaForCausalLM
from r1trt.model.moe import Router, Routing

NAME = "adaptive-k"
EXPERTS, CANDIDATES, QUINTILES = 8, 4, 5


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A rule for how many experts a token takes.

    Attributes:
        kind: fixed, adaptive or top-p.
        top_k: Most experts.
        threshold: Share of their weight that is enough; 1 takes all.
    """

    kind: str
    top_k: int
    threshold: float = 1.0

    @property
    def name(self) -> str:
        """In the names of runs."""
        return f"fixed-{self.top_k}" if self.kind == "fixed" else f"{self.kind}-{self.threshold:g}"


VARIANTS = (
    *(Variant(kind="fixed", top_k=k) for k in (1, 2, 3, 4)),
    *(Variant(kind="adaptive", top_k=CANDIDATES, threshold=share) for share in (0.6, 0.8, 0.95)),
    *(Variant(kind="top-p", top_k=EXPERTS, threshold=share) for share in (0.5, 0.75)),
)
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
    return replace(training, more=more)


def measure(options: Options) -> dict[str, Any]:
    """Trains every variant with every seed, all variants of a seed first."""
    training = REDUCED if options.reduced else TRAINING
    found = []
    for seed in range(options.seeds):
        for variant in VARIANTS:
            config = config_of(variant, training)
            run = Run(row=NAME, variant=variant.name, seed=seed, config=asdict(config))
            record = options.store.record(run, partial(trained_variant, config, seed))
            if record is not None:
                found.append({**asdict(variant), "variant": variant.name, "seed": seed, **record["result"]})
    return {"training": asdict(training), "runs": found, "compared": list(_compared(found))}


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


def _compared(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each adaptive run beside the fixed ones of its seed: loss at equal k, and k at equal loss."""
    rows = []
    for run in found:
        fixed = [other for other in found if other["kind"] == "fixed" and other["seed"] == run["seed"]]
        if run["kind"] == "fixed" or len(fixed) < 2:
            continue
        experts = [other["experts"] for other in fixed]
        losses = [other["bits_per_byte"] for other in fixed]
        equal = float(np.interp(run["experts"], experts, losses))
        inside = experts[0] <= run["experts"] <= experts[-1]
        rows.append(
            {
                "variant": run["variant"],
                "seed": run["seed"],
                "experts": run["experts"],
                "difference": run["bits_per_byte"] - equal if inside else None,
                "fixed_k_of_equal_loss": _k_of_loss(experts, losses, run["bits_per_byte"]),
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
        "| rule | seeds | experts a token | bits a byte | against fixed k | k by entropy | correlation |",
        "|---|---:|---|---|---|---|---:|",
    ]
    for name in dict.fromkeys(run["variant"] for run in document["runs"]):
        lines.append(_line(document, name))
    return "\n".join(lines)


def _line(document: Mapping[str, Any], name: str) -> str:
    runs = [run for run in document["runs"] if run["variant"] == name]
    compared = [row["difference"] for row in document["compared"] if row["variant"] == name]
    known = [difference for difference in compared if difference is not None]
    by_entropy = [mean(values) for values in zip(*(r["experts_by_entropy"] for r in runs), strict=True)]
    ranks = [run["rank_correlation"] for run in runs if run["rank_correlation"] is not None]
    cells = [
        name,
        str(len(runs)),
        spread([run["experts"] for run in runs], ".2f"),
        spread([run["bits_per_byte"] for run in runs], ".4f"),
        spread(known, "+.4f") if known else "",
        " ".join(f"{k:.2f}" for k in by_entropy) if ranks else "",
        f"{mean(ranks):+.2f}" if ranks else "",
    ]
    return f"| {' | '.join(cells)} |"


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Loss over mean experts a token of each kind of rule, and k over entropy."""
    figure, (losses, entropies) = figure_of(2)
    runs = document["runs"]
    for kind in dict.fromkeys(run["kind"] for run in runs):
        names = dict.fromkeys(run["variant"] for run in runs if run["kind"] == kind)
        own = [[run for run in runs if run["variant"] == name] for name in names]
        k = [mean(run["experts"] for run in group) for group in own]
        bits = [[run["bits_per_byte"] for run in group] for group in own]
        middle = [mean(group) for group in bits]
        reach = [
            [m - min(group) for m, group in zip(middle, bits, strict=True)],
            [max(group) - m for m, group in zip(middle, bits, strict=True)],
        ]
        losses.errorbar(k, middle, yerr=reach, marker="o", capsize=3, label=kind)
    for run in runs:
        if run["seed"] == 0 and run["rank_correlation"] is not None:
            entropies.plot(run["entropy_bits"], run["experts_by_entropy"], "o-", label=run["variant"])
    losses.set(xlabel="mean experts a token", ylabel="held-out bits a byte")
    entropies.set(xlabel="entropy of the prediction, bits", ylabel="mean experts a token")
    losses.legend()
    entropies.legend(fontsize="small")
    save_figure(figure, path)


ROW = Row(name=NAME, measure=measure, page=page, draw=draw)
