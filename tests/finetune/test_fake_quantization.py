"""Rounding in PyTorch beside the project's own codes, and its gradient beside autograd's of clipping."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from r1trt.finetune.fake_quantization import DECAY, ActivationRange, fake_quantized, quantized
from r1trt.graph.codes import FP8_CODES


def every_kind_of_value(scale: float) -> torch.Tensor:
    """All codes, the points half-way between neighbours, what lies beside these, and beyond all codes."""
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    codes = codes[codes.isfinite()].sort().values
    middle = (codes[1:] + codes[:-1]) / 2
    values = torch.cat([codes, middle, middle * (1 + 2**-20), middle * (1 - 2**-20), 40 * codes])
    return torch.cat([values, torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 100]) * scale


@pytest.mark.parametrize("scale", [1.0, 0.25, float(np.float32(0.0123)), float(np.float32(1e-30))])
def test_values_are_those_of_our_codes(scale: float) -> None:
    x = every_kind_of_value(scale)
    expected = FP8_CODES.codes(x.numpy(), np.float32(scale)).astype(np.float32) * np.float32(scale)
    np.testing.assert_array_equal(quantized(x, scale).numpy(), expected)


def test_the_gradient_is_that_of_clipping() -> None:
    scale = 0.25
    generator = torch.Generator().manual_seed(1)
    x = (torch.randn(64, 32, generator=generator, dtype=torch.float64) * 100).requires_grad_()
    weight = torch.randn(64, 32, generator=generator, dtype=torch.float64)
    (found,) = torch.autograd.grad((fake_quantized(x, scale) * weight).sum(), x)
    limit = scale * FP8_CODES.largest
    (expected,) = torch.autograd.grad((x.clamp(-limit, limit) * weight).sum(), x)
    assert 0 < int((x.abs() > limit).sum()) < x.numel()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_what_is_not_finite_stays_so() -> None:
    assert quantized(torch.tensor([torch.nan]), 1.0).isnan().all()


def test_a_range_follows_what_it_sees_between_steps() -> None:
    seen = ActivationRange(4.0)
    layer = nn.Linear(2, 1)
    seen(layer, (torch.tensor([[1.0, -8.0]]),))
    assert seen.scale == float(FP8_CODES.scale(4.0))  # within the step nothing moves
    seen.advance()
    assert seen.amax == 8.0
    seen.advance()
    assert seen.amax == DECAY * 8.0
    with torch.no_grad():
        seen(layer, (torch.tensor([[1000.0, 0.0]]),))
    seen.advance()
    assert seen.amax == DECAY**2 * 8.0
