"""Rows of the rotary embedding, with and without temperature.

Legend: T tokens, H query heads, G key heads, d head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from r1trt.plugin_checks.bench import roofline
from r1trt.plugin_checks.bench.aims import OURS, RATIO, SHARE_OF_COPY, Aim, Work
from r1trt.plugin_checks.bench.launching import compiled, launch
from r1trt.plugin_checks.bench.peers import package
from r1trt.plugin_checks.bench.row_times import Row
from r1trt.plugin_checks.bench.timing import Call, Contender
from r1trt.plugin_checks.cases.arrays import BFLOAT16
from r1trt.plugin_checks.cases.params import RopeParams
from r1trt.plugin_checks.device_kernels import DeviceKernels

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
THETA, ALPHA, ORIGINAL = 10000.0, 0.1, 1024
PLAIN = f"{OURS}, without temperature"
MEMORY_BOUND = 8192  # tokens from which launching does not count


def rotated(x: Tensor, position: Tensor, inv_freq: Tensor, alpha: float) -> Tensor:
    """Rotates pairs (i, i + d/2) of x [T, H, d] in FP32; `alpha` 0 leaves the temperature out."""
    angle = position.float().unsqueeze(-1) * inv_freq
    factor = 1 + alpha * torch.log((position.float() / ORIGINAL).clamp(min=1)).unsqueeze(-1)
    cos, sin = (angle.cos() * factor).unsqueeze(1), (angle.sin() * factor).unsqueeze(1)
    first, second = x.float().chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class RopeRow:
    """Queries and keys of one sequence."""

    tokens: int
    temperature: bool = False
    hot: bool = False

    @property
    def name(self) -> str:
        """As the receipt has it."""
        return f"rope bf16{', temperature' if self.temperature else ''}, T={self.tokens}"

    @property
    def work(self) -> Work:
        """Bytes."""
        return Work(size=roofline.rope_bytes(self.tokens, HEADS, KV_HEADS, HEAD_DIM))

    @property
    def aims(self) -> tuple[Aim, ...]:
        """What it is meant to reach."""
        ratio = Aim(measure=RATIO, limit=1, peer=("torch.compile",))
        if self.tokens < MEMORY_BOUND:
            return (ratio,)
        share = Aim(measure=SHARE_OF_COPY, limit=0.9)
        return (
            (ratio, share, Aim(measure=RATIO, limit=0.98, peer=(PLAIN,)))
            if self.temperature
            else (ratio, share)
        )

    def contenders(self, library: DeviceKernels, device: str) -> list[Contender]:
        """Ours first."""
        q, k = (
            torch.randn(self.tokens, heads, HEAD_DIM, device=device, dtype=torch.bfloat16)
            for heads in (HEADS, KV_HEADS)
        )
        inv_freq = THETA ** -(torch.arange(0, HEAD_DIM, 2, device=device) / HEAD_DIM)
        past = torch.zeros(1, dtype=torch.int64, device=device)
        position = torch.arange(self.tokens, device=device, dtype=torch.int32)
        alpha = ALPHA if self.temperature else 0.0

        def ours(alpha: float) -> Call:
            q_out, k_out = torch.full_like(q, float("nan")), torch.full_like(k, float("nan"))
            params = library.params(
                RopeParams, data_type=BFLOAT16, batch=1, seq=self.tokens, heads=HEADS, kv_heads=KV_HEADS,
                head_dim=HEAD_DIM, rotary_dim=HEAD_DIM, temperature_alpha=alpha,
                original_max_position=ORIGINAL if alpha else 0, q=q.data_ptr(), k=k.data_ptr(),
                inv_freq=inv_freq.data_ptr(), past_len=past.data_ptr(), q_out=q_out.data_ptr(),
                k_out=k_out.data_ptr(),
            )  # fmt: skip
            return launch(library, params, q_out, k_out, q, k, inv_freq, past)

        def by_torch() -> Call:
            def both() -> tuple[Tensor, Tensor]:
                return rotated(q, position, inv_freq, alpha), rotated(k, position, inv_freq, alpha)

            function = compiled(both, q.device)
            return lambda: function()[0]

        contenders = [
            Contender(name=OURS, make=lambda: ours(alpha)),
            Contender(name="torch.compile", make=by_torch),
        ]
        if self.temperature:
            return [*contenders, Contender(name=PLAIN, make=lambda: ours(0.0), same=False)]
        return [*contenders, *_plain_peers(q, k, position, inv_freq)]


def _plain_peers(q: Tensor, k: Tensor, position: Tensor, inv_freq: Tensor) -> list[Contender]:
    def flashinfer() -> Call:
        function = package("flashinfer").apply_rope_pos_ids
        return lambda: function(q, k, position, rope_theta=THETA)[0]

    def liger() -> Call:
        function: Any = package("liger_kernel.transformers.rope").liger_rotary_pos_emb
        angle = position.float().unsqueeze(-1) * inv_freq
        tables = [
            torch.cat([table, table], -1).unsqueeze(0).to(q.dtype) for table in (angle.cos(), angle.sin())
        ]
        heads_first = [tensor.transpose(0, 1).unsqueeze(0).contiguous() for tensor in (q, k)]
        return lambda: function(*heads_first, *tables)

    return [Contender(name="FlashInfer", make=flashinfer), Contender(name="Liger", make=liger, same=False)]


ROWS: list[Row] = [
    RopeRow(tokens=8192),
    RopeRow(tokens=8192, temperature=True),
    RopeRow(tokens=1, hot=True),
    RopeRow(tokens=128, hot=True),
    RopeRow(tokens=2048),
    RopeRow(tokens=32768),
]
