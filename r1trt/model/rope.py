"""Dynamic RoPE: rotation by position, with a temperature past the trained length."""

from __future__ import annotations

import torch
from torch import Tensor

from r1trt.config import ModelConfig
from r1trt.model.norm import widened
from r1trt.rope import rope_frequencies


class DynamicRope:
    """Rotates the leading elements of every head.

    Not a module: a module's buffers follow `to(torch.bfloat16)`, and frequencies must never be rounded.

    Args:
        config: The model; its `rope` and context length are read.
        max_seq_len: Longest sequence that length-dependent frequencies are frozen at.
    """

    def __init__(self, config: ModelConfig, max_seq_len: int) -> None:
        self.config = config.rope
        self.inv_freq, self.attention_factor = rope_frequencies(
            config.rope, max_seq_len, max_position_embeddings=config.max_position_embeddings
        )

    def cos_sin(self, position_BS: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Computes cosines and sines, each times attention factor and temperature.

        Args:
            position_BS: Absolute positions, int64.
            like: A tensor whose device and widened dtype the result has.

        Returns:
            Two tensors `[B, S, 1, rotary_dim / 2]`.
        """
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        inv_freq = torch.from_numpy(self.inv_freq).to(device=like.device, dtype=dtype)
        position = position_BS.to(dtype)[..., None, None]
        angle = position * inv_freq
        factor = self.attention_factor * self.temperature(position)
        return angle.cos() * factor, angle.sin() * factor

    def temperature(self, position: Tensor) -> Tensor:
        """Returns `1 + alpha * ln(position / original)` from the original length on, and 1 before it."""
        alpha, original = self.config.temperature_alpha, self.config.original_max_position
        if alpha == 0 or original == 0:
            return torch.ones_like(position)
        return 1 + alpha * (position / original).clamp(min=1).log()

    def rotate(self, x_BSHd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotates the first `rotary_dim` elements of every head of `x`; the result has its dtype."""
        size = self.config.rotary_dim
        wide, rest = widened(x_BSHd[..., :size]), x_BSHd[..., size:]
        if self.config.interleaved:
            first, second = wide[..., 0::2], wide[..., 1::2]
        else:
            first, second = wide.chunk(2, dim=-1)
        pair = first * cos - second * sin, second * cos + first * sin
        rotated = torch.stack(pair, -1).flatten(-2) if self.config.interleaved else torch.cat(pair, -1)
        return torch.cat([rotated.to(x_BSHd.dtype), rest], dim=-1)
