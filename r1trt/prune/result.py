"""What a pruning did, and what it came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from r1trt.prune.selection import LayerChoice
from r1trt.text import ranges_text, size_text

_LISTED = 8
"""Runs of removed experts that a line of the table names."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a checkpoint holds.

    Attributes:
        experts: Routed experts of a layer.
        parameters: Elements of all weights.
        bytes: Of their data, scales included.
    """

    experts: int
    parameters: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class PruneResult:
    """The whole pruning.

    Attributes:
        facts: What was pruned by which criterion, and the texts.
        before: The checkpoint that was pruned.
        after: The new one.
        choices: Layer by layer.
        accuracy: The new model's predictions on the held-out text against those of the old one; None where
            nothing was written.
        cautions: What a user should know.
        notes: What the new checkpoint does not have besides.
    """

    facts: Mapping[str, Any]
    before: Size
    after: Size
    choices: tuple[LayerChoice, ...]
    accuracy: Mapping[str, Any] | None
    cautions: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def layer_rows(self) -> list[tuple[int, str, float, float]]:
        """Layer, removed experts, and their parts of tokens and of contributions, in percent."""
        return [
            (
                choice.scores.layer,
                ranges_text(choice.removed, _LISTED),
                round(100 * choice.removed_tokens, 1),
                round(100 * choice.removed_contribution, 1),
            )
            for choice in self.choices
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values, documented in docs/pruning.md."""
        return {
            **self.facts,
            "before": vars(self.before),
            "after": vars(self.after),
            "accuracy": None if self.accuracy is None else dict(self.accuracy),
            "cautions": list(self.cautions),
            "notes": list(self.notes),
            "layers": [_layer_json(choice) for choice in self.choices],
        }

    def summary(self) -> list[str]:
        """What a reader wants to know first, a line each."""
        before, after = self.before, self.after
        smaller = 1 - after.bytes / before.bytes
        lines = [
            f"experts of a layer {before.experts} to {after.experts}, weights {size_text(before.bytes)} to "
            f"{size_text(after.bytes)} ({smaller:.1%} less)"
        ]
        if self.accuracy is not None:
            found = self.accuracy
            old, new = found["perplexity_reference"], found["perplexity_tested"]
            lines.append(
                f"on {found['tokens']} tokens of held-out text: perplexity {old:.4g} to {new:.4g} "
                f"({found['perplexity_increase']:+.1%}), KL {found['kl_mean']:.4g} nats, "
                f"agreement {found['agreement']:.1%}"
            )
        return lines


def _layer_json(choice: LayerChoice) -> dict[str, Any]:
    scores = choice.scores
    return {
        "layer": scores.layer,
        "kept": list(choice.kept),
        "removed": list(choice.removed),
        "removed_tokens": choice.removed_tokens,
        "removed_contribution": choice.removed_contribution,
        "tokens": [int(count) for count in scores.tokens_E],
        "saliency": [float(f"{value:.6g}") for value in scores.saliency_E],
    }
