"""RMSNorm, and the precision that sensitive arithmetic is done in."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def widened(x: Tensor) -> Tensor:
    """Returns `x` in FP64 if it is FP64, in FP32 otherwise."""
    return x if x.dtype == torch.float64 else x.float()


class RmsNorm(nn.Module):
    """`x / sqrt(mean(x^2) + epsilon) * weight` over the last dimension, rounded once at the end.

    Args:
        size: Length of the last dimension.
        epsilon: Added to the mean square.
    """

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes `x` `[..., size]`; the result has its dtype."""
        wide = widened(x)
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        return (wide * widened(self.weight)).to(x.dtype)
