"""Associative recall: pairs of a key and a value among noise, and the value to give when the key returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from r1trt.model import R1AsaForCausalLM

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class RecallTask:
    """The alphabet: noise, keys and values have token ids of their own.

    Attributes:
        keys: Different keys.
        values: Different values; a guess is right once in so many.
        noise: Different tokens between the pairs.
        share: Of the places of a sequence, how many hold a pair or a question, at most `2 * keys`.
    """

    keys: int = 32
    values: int = 32
    noise: int = 32
    share: float = 0.5

    @property
    def vocab_size(self) -> int:
        """All token ids."""
        return self.keys + self.values + self.noise

    def pairs(self, length: int) -> int:
        """How many keys a sequence of a length asks for."""
        return min(self.keys, int(self.share * length / 4))


@dataclass(frozen=True, kw_only=True)
class RecallBatch:
    """Sequences, and what is asked in them.

    Attributes:
        ids: Token ids `[B, S]`.
        targets: The value where a key stands the second time, IGNORED elsewhere, `[B, S]`.
        distance: Tokens between both keys, where something is asked, 0 elsewhere, `[B, S]`.
    """

    ids: Tensor
    targets: Tensor
    distance: Tensor


def recall_batch(task: RecallTask, rows: int, length: int, generator: torch.Generator) -> RecallBatch:
    """Draws sequences: each of some keys twice at even places, its value behind it, all else noise."""
    pairs, slots = task.pairs(length), length // 2
    order = torch.rand(rows, slots, generator=generator).argsort(-1)[:, : 2 * pairs].view(rows, pairs, 2)
    first, second = (2 * order.sort(-1).values).unbind(-1)
    keys = torch.rand(rows, task.keys, generator=generator).argsort(-1)[:, :pairs]
    values = task.keys + torch.randint(task.values, (rows, pairs), generator=generator)
    ids = task.keys + task.values + torch.randint(task.noise, (rows, length), generator=generator)
    for place in (first, second):
        ids.scatter_(1, place, keys).scatter_(1, place + 1, values)
    targets = torch.full_like(ids, IGNORED).scatter_(1, second, values)
    return RecallBatch(
        ids=ids, targets=targets, distance=torch.zeros_like(ids).scatter_(1, second, second - first)
    )


def recall_loss(module: R1AsaForCausalLM, batch: RecallBatch) -> Tensor:
    """Mean loss of the answers, in nats."""
    logits = module(batch.ids).flatten(0, 1)
    return F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORED)
