"""FP8 as PyTorch sees it in training: values rounded to codes times a scale, gradients straight through.

A builder's products take codes; here the codes' values are multiplied in FP32. The scale of an activation is
static within a step, as it is in an engine, and follows the running largest magnitude between steps. E4M3
keeps its relative precision over 2^15, so that a scale decides what is clipped and little else: there is
nothing for a gradient to find.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from r1trt.graph.codes import FP8_CODES

DECAY = 0.99
"""What a largest magnitude is worth a step later: it is remembered for some hundred steps."""


def quantized(x: Tensor, scale: float) -> Tensor:
    """The values that codes stand for: `FP8_CODES.codes(x, scale) * scale`, in the dtype of `x`.

    Args:
        x: Any shape, FP32 or FP64; the codes are those of FP32.
        scale: An FP32 number.
    """
    scaled = (x.float() / scale).clamp(-FP8_CODES.largest, FP8_CODES.largest)
    return (scaled.to(torch.float8_e4m3fn).float() * scale).to(x.dtype)


class _StraightThrough(torch.autograd.Function):
    """Rounding whose gradient is that of clipping: 1 inside of what codes reach, 0 beyond."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        """The quantized values."""
        ctx.save_for_backward(x.abs() <= FP8_CODES.largest * scale)
        return quantized(x, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient of `x`; the scale has none."""
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None


def fake_quantized(x: Tensor, scale: float) -> Tensor:
    """`quantized(x, scale)` with a straight-through gradient, which is 0 where `x` was clipped."""
    result: Tensor = _StraightThrough.apply(x, scale)  # type: ignore[no-untyped-call]
    return result


class ActivationRange:
    """One scale of a plan, and the running largest magnitude that it follows.

    Args:
        amax: The largest magnitude to begin with.
    """

    def __init__(self, amax: float) -> None:
        self.amax, self._seen = amax, 0.0

    @property
    def scale(self) -> float:
        """An FP32 number; the same for all calls of a step, so that recomputing gives the same again."""
        return float(FP8_CODES.scale(self.amax))

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Quantizes what enters a module: a hook in front of its forward pass."""
        x, *others = inputs
        if x.numel() and torch.is_grad_enabled():
            self._seen = max(self._seen, float(x.detach().abs().amax()))
        return (fake_quantized(x, self.scale), *others)

    def advance(self) -> None:
        """Takes what the last step has seen into the range of the next."""
        self.amax = max(self._seen, DECAY * self.amax)
        self.forget()

    def forget(self) -> None:
        """What was seen was no step."""
        self._seen = 0.0
