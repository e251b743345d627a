"""Teaches the gates of hybrid-length attention to open for a share of the arithmetic only, and to decide."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from claims.attention import attentions_of, block_pairs, full_pairs, opened_of
from r1trt.config import HlaConfig
from r1trt.model import R1AsaForCausalLM


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How the share of a training's end is reached.

    Attributes:
        share: Of full attention's query-key products at the longest length, the block branch included; 1 for
            no budget.
        begin: At which part of the schedule the allowed share begins to fall from 1; below 0 for gates that
            are decided from the first step on.
        end: From which part on it is `share`, and the gates are 0 or 1.
        strength: Weight of the excess in the loss.
    """

    share: float = 1.0
    begin: float = 0.25
    end: float = 0.6
    strength: float = 20.0

    def excess(self, module: R1AsaForCausalLM, done: float, allowed: float) -> Tensor:
        """What the last forward pass opened above what is allowed at this part of the schedule, weighted."""
        if self.share >= 1:
            return torch.zeros(())
        fallen = min(1.0, max(0.0, (done - self.begin) / (self.end - self.begin)))
        return self.strength * (opened_of(module) - (1 - fallen * (1 - allowed))).relu()

    def prepare(self, module: R1AsaForCausalLM, done: float) -> None:
        """Sets how the gates behave in the next step: with noise as they learn to decide, then decided."""
        for attention in attentions_of(module):
            attention.decided = self.share < 1 and done >= self.end
            learning = self.share < 1 and 0 <= self.begin <= done < (1 + self.end) / 2
            attention.noise = float(learning)


def allowed_opening(share: float, length: int, hla: HlaConfig) -> float:
    """The part of the queries and heads, weighted by their keys, that may be open within a share."""
    block = float(block_pairs(length, hla).sum() / full_pairs(length).sum())
    return max(0.0, (share - block) / (1 - block))
