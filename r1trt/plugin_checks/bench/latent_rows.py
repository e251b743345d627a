"""Rows of decoding against the latent cache of multi-head latent attention, up-projections absorbed.

Legend: B batch, H query heads, L keys in the cache, c latent size, r rotary size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from r1trt.plugin_checks.bench.aims import OURS, RATIO, Aim, Work
from r1trt.plugin_checks.bench.launching import launch
from r1trt.plugin_checks.bench.peers import operator
from r1trt.plugin_checks.bench.row_times import Row
from r1trt.plugin_checks.bench.timing import Call, Contender
from r1trt.plugin_checks.cases.arrays import BFLOAT16
from r1trt.plugin_checks.cases.params import AttentionParams
from r1trt.plugin_checks.device_kernels import DeviceKernels

LATENT, ROTARY = 512, 64
SCALE = 192**-0.5  # by the size of a head before absorption
PAGE = 64  # tokens, FlashMLA's


@dataclass(frozen=True, kw_only=True)
class LatentDecodeRow:
    """One token a row against a latent cache.

    Attributes:
        batch: B.
        keys: L, the new one included; a multiple of FlashMLA's page.
        heads: H; 128 in DeepSeek-R1.
        hot: Whether the cache is left as it is between calls.
    """

    batch: int
    keys: int
    heads: int = 128
    hot: bool = False

    @property
    def name(self) -> str:
        """As the receipt has it."""
        return f"latent decode, H={self.heads}, B={self.batch}, L={self.keys}"

    @property
    def work(self) -> Work:
        """Operations and bytes."""
        pairs = self.batch * self.heads * self.keys
        read = self.batch * self.keys * (LATENT + ROTARY) * 2
        own = self.batch * self.heads * (2 * LATENT + ROTARY) * 2
        return Work(operations=2 * pairs * (2 * LATENT + ROTARY), size=read + own)

    @property
    def aims(self) -> tuple[Aim, ...]:
        """What it is meant to reach."""
        return (Aim(measure=RATIO, limit=1, peer=("FlashMLA", "torch.bmm")),)

    def contenders(self, library: DeviceKernels, device: str) -> list[Contender]:
        """Ours first. Peers find the new token in the cache already, ours writes it."""
        B, L, size = self.batch, self.keys, LATENT + ROTARY
        q = torch.randn(B, 1, self.heads, size, device=device, dtype=torch.bfloat16)
        cache = torch.randn(B, 1, L, size, device=device, dtype=torch.bfloat16)
        new = cache[:, :, -1:].transpose(1, 2).contiguous()
        past = torch.full((B,), L - 1, device=device, dtype=torch.int64)
        y = torch.full((B, 1, self.heads, LATENT), float("nan"), device=device, dtype=torch.bfloat16)

        def ours() -> Call:
            params = library.params(
                AttentionParams, data_type=BFLOAT16, batch=B, seq=1, heads=self.heads, kv_heads=1,
                qk_head_dim=size, v_head_dim=LATENT, scale=SCALE, q=q.data_ptr(), k=new.data_ptr(),
                past_len=past.data_ptr(), y=y.data_ptr(), key_cache=cache.data_ptr(), cache_capacity=L,
            )  # fmt: skip
            return launch(library, params, y, q, cache, new, past)

        return [
            Contender(name=OURS, make=ours),
            Contender(name="FlashMLA", make=lambda: flash_mla(q, cache)),
            Contender(name="torch.bmm", make=lambda: products(q, cache)),
        ]


def flash_mla(q: Tensor, cache: Tensor) -> Call:
    """FlashMLA as vLLM carries it, on pages in order: q [B, 1, H, c + r], cache [B, 1, L, c + r].

    Raises:
        PeerMissing: It is not there.
    """
    op = operator("_flashmla_C.abi3.so", ("vllm._flashmla_C",), "_flashmla_C", "dense_decode_fwd")
    B, L, size = cache.shape[0], *cache.shape[2:]
    pages = cache.reshape(B * L // PAGE, PAGE, 1, size)
    table = torch.arange(len(pages), dtype=torch.int32, device=q.device).reshape(B, -1)
    lengths = torch.full((B,), L, dtype=torch.int32, device=q.device)
    fixed = (q, pages, LATENT, lengths, table, SCALE, False)
    *_, schedule, splits = op(*fixed, None, None, None)
    return lambda: op(*fixed, schedule, splits, None)[0]


def products(q: Tensor, cache: Tensor) -> Call:
    """Two products and a softmax."""

    def call() -> Tensor:
        scores = q[:, 0] @ cache[:, 0].transpose(-2, -1)
        weights = torch.softmax(scores.float() * SCALE, -1).to(q.dtype)
        return (weights @ cache[:, 0, :, :LATENT]).unsqueeze(1)

    return call


ROWS: list[Row] = [
    LatentDecodeRow(batch=32, keys=4096),
    LatentDecodeRow(batch=1, keys=4096),
    LatentDecodeRow(batch=128, keys=8192),
]
