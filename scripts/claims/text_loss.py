"""Next-byte loss of a model, in training and by position."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from r1trt.model import R1AsaForCausalLM


def random_windows(ids: Tensor, rows: int, length: int, generator: torch.Generator) -> Tensor:
    """Draws sequences `[rows, length + 1]` from anywhere in a text."""
    starts = torch.randint(len(ids) - length, (rows, 1), generator=generator)
    return ids[starts + torch.arange(length + 1)].long()


def loss_of(module: R1AsaForCausalLM, ids: Tensor) -> Tensor:
    """Mean next-byte loss of sequences `[B, S + 1]`, in nats."""
    return F.cross_entropy(module(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


@torch.no_grad()
def bits_by_position(
    module: Callable[[Tensor], Tensor], ids: Tensor, length: int, edges: Sequence[int], count: int
) -> list[float]:
    """Bits per byte over ranges of positions, each window of a text read from its begin.

    Args:
        module: Gives logits `[B, S, V]` of ids `[B, S]`.
        ids: The text, `[bytes]`.
        length: Of a window.
        edges: Where the ranges end; the last is `length`.
        count: Most windows.
    """
    starts = range(0, min(count * length, len(ids) - length), length)
    losses = [
        F.cross_entropy(module(window[None, :-1])[0], window[1:], reduction="none")
        for window in (ids[start : start + length + 1].long() for start in starts)
    ]
    by_position = torch.stack(losses).mean(0) / math.log(2)
    begins = [0, *edges[:-1]]
    return [float(by_position[begin:end].mean()) for begin, end in zip(begins, edges, strict=True)]
