"""What a fine-tuning did, and what it came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from r1trt.finetune.accuracy import Accuracy
from r1trt.search.measure import Measured
from r1trt.text import size_text

Row = tuple[str, float, str, float, str]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of one step's forward and backward pass, beyond weights and optimizer; measured.

    Attributes:
        kept: Bytes where all layers keep their activations.
        recomputed: Bytes where only some do.
        kept_layers: Which ones, from 0.
    """

    kept: int
    recomputed: int
    kept_layers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """The whole fine-tuning.

    Attributes:
        facts: What was trained, how, and on which text.
        losses: Of each step, in nats a token.
        resumed_at: Steps that an earlier run had done; 0 where this one began.
        memory: None where all layers keep their activations.
        accuracy: On held-out text.
    """

    facts: Mapping[str, Any]
    losses: tuple[float, ...]
    resumed_at: int
    memory: Memory | None
    accuracy: Accuracy

    @property
    def rows(self) -> list[Row]:
        """The models: perplexity, its increase, KL divergence and agreement."""
        found, name = self.accuracy, str(self.facts["precision"]).upper()
        return [
            ("unquantized", round(found.tuned.perplexity_exact, 4), "", 0.0, ""),
            _row(f"{name}, calibrated", found.calibrated),
            _row(f"{name}, fine-tuned", found.tuned),
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values, documented in docs/finetuning.md."""
        return {
            **self.facts,
            "resumed_at": self.resumed_at,
            "losses": [float(f"{loss:.6g}") for loss in self.losses],
            "memory": None if self.memory is None else vars(self.memory),
            "accuracy": dict(self.accuracy.to_json()),
        }

    def summary(self) -> Iterator[str]:
        """What a reader wants to know first, a line each."""
        facts, losses = self.facts, self.losses
        tenth = max(len(losses) // 10, 1)
        yield (
            f"{facts['loss']} loss {fmean(losses[:tenth]):.4g} to {fmean(losses[-tenth:]):.4g} nats in "
            f"{len(losses)} steps: {facts['epochs']} epochs of {facts['windows']} windows of "
            f"{facts['window']} tokens"
        )
        if self.memory is not None:
            kept, recomputed = self.memory.kept, self.memory.recomputed
            yield (
                f"a step's memory {size_text(recomputed)} with recomputation, {size_text(kept)} without "
                f"({recomputed / kept - 1:+.0%})"
            )
        yield from self._recovered()

    def _recovered(self) -> Iterator[str]:
        found = self.accuracy
        if found.recovered_kl is not None:
            yield f"recovered {found.recovered_kl:.0%} of the KL divergence that calibration alone has"
        if found.recovered_perplexity is None or not found.is_certain:
            yield (
                "calibration alone loses no perplexity for certain "
                f"({_increase(found.calibrated)}): a share of it says nothing"
            )
        else:
            yield f"recovered {found.recovered_perplexity:.0%} of the perplexity that calibration alone loses"


def _row(name: str, found: Measured) -> Row:
    return (
        name,
        round(found.perplexity, 4),
        _increase(found),
        float(f"{found.kl.mean:.3g}"),
        f"{found.agreement:.2%}",
    )


def _increase(found: Measured) -> str:
    increase = found.perplexity_increase
    return f"{increase.mean:+.2%} ({increase.low:+.2%} to {increase.high:+.2%})"
