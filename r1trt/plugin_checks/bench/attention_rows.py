"""Rows of attention: prefill with the block branch alone, mixed and dense; decoding, dense and block-only.

Legend: B batch, N tokens of the call, H query heads, G key/value heads, d head size, L keys in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from r1trt.plugin_checks.bench import roofline
from r1trt.plugin_checks.bench.aims import OURS, RATIO, SHARE_OF_DATA_SHEET, Aim, Work
from r1trt.plugin_checks.bench.attention_peers import block_branch, flash3, flash_with_lse, flex, merged, sdpa
from r1trt.plugin_checks.bench.launching import compiled, launch
from r1trt.plugin_checks.bench.row_times import Row
from r1trt.plugin_checks.bench.timing import Call, Contender
from r1trt.plugin_checks.cases.arrays import BFLOAT16
from r1trt.plugin_checks.cases.attention_cases import ALL_TO_FIRST
from r1trt.plugin_checks.cases.params import AttentionParams
from r1trt.plugin_checks.device_kernels import DeviceKernels

HEAD_DIM, BLOCK = 128, 32
FULL_PEERS = ("FA3, full", "cuDNN, full")
DENSE_SHARE = 6 / 32  # of the heads: makes about 23 % of full attention's work
BANDWIDTH_BOUND = 256e6  # bytes from which a decoding step must use the memory well


@dataclass(frozen=True, kw_only=True)
class PrefillRow:
    """A prompt without a cache.

    Attributes:
        tokens: N.
        batch: B.
        lam: `zeros` (block branch alone), `heads` (6 of 32 heads dense, the others not at all),
            `dense`.
        aims: What it is meant to reach.
        heads: H.
        kv_heads: G.
        hot: Whether the cache is left as it is between calls.
    """

    tokens: int
    lam: str = "zeros"
    batch: int = 1
    aims: tuple[Aim, ...] = ()
    heads: int = 32
    kv_heads: int = 8
    hot: bool = False

    @property
    def name(self) -> str:
        """As the receipt has it."""
        return f"attention prefill, lam {self.lam}, B={self.batch}, N={self.tokens}"

    @property
    def dense_heads(self) -> int:
        """Heads with the full branch alone, of a row with `heads`."""
        return round(DENSE_SHARE * self.heads)

    @property
    def work(self) -> Work:
        """Operations and bytes."""
        block = roofline.pairs_block(self.tokens, BLOCK, all_to_first=True)
        full = roofline.pairs_full(self.tokens)
        dense = {"zeros": 0, "heads": self.dense_heads, "dense": self.heads}[self.lam]
        pairs = (dense * full + (self.heads - dense) * block) / self.heads
        return Work(
            operations=roofline.attention_operations(pairs, self.heads, HEAD_DIM, self.batch),
            size=roofline.prefill_bytes(self.tokens, self.heads, self.kv_heads, HEAD_DIM, self.batch),
        )

    def _lam(self, device: str) -> Tensor:
        shape = (self.batch, self.tokens, self.heads)
        if self.lam == "dense":
            return torch.rand(shape, device=device) * 0.5 + 0.25
        lam = torch.zeros(shape, device=device)
        lam[..., : self.dense_heads if self.lam == "heads" else 0] = 1
        return lam

    def contenders(self, library: DeviceKernels, device: str) -> list[Contender]:
        """Ours first."""
        B, N = self.batch, self.tokens
        q, k, v = (
            torch.randn(B, N, heads, HEAD_DIM, device=device, dtype=torch.bfloat16)
            for heads in (self.heads, self.kv_heads, self.kv_heads)
        )
        lam, y = self._lam(device), torch.full_like(q, float("nan"))

        def ours() -> Call:
            params = library.params(
                AttentionParams, data_type=BFLOAT16, batch=B, seq=N, heads=self.heads, kv_heads=self.kv_heads,
                qk_head_dim=HEAD_DIM, v_head_dim=HEAD_DIM, block_size=BLOCK, inter_block=ALL_TO_FIRST,
                q=q.data_ptr(), k=k.data_ptr(), v=v.data_ptr(), lam=lam.data_ptr(), y=y.data_ptr(),
            )  # fmt: skip
            return launch(library, params, y, q, k, v, lam)

        full = [
            Contender(name="FA3, full", make=lambda: _first(flash3(), q, k, v, True), same=False),
            Contender(
                name="cuDNN, full",
                make=lambda: sdpa(SDPBackend.CUDNN_ATTENTION, q, k, v, causal=True),
                same=False,
            ),
            Contender(
                name="flash SDPA (FA2), full",
                make=lambda: sdpa(SDPBackend.FLASH_ATTENTION, q, k, v, causal=True),
                same=False,
            ),
        ]
        block = self._block_peers(q, k, v) if self.lam == "zeros" else []
        return [Contender(name=OURS, make=ours), *full, *block]

    def _block_peers(self, q: Tensor, k: Tensor, v: Tensor) -> list[Contender]:
        def composed(attend: Callable[[], Callable[..., tuple[Tensor, Tensor]]]) -> Callable[[], Call]:
            def make() -> Call:
                function, merge = attend(), compiled(merged, q.device)
                return lambda: block_branch(function, q, k, v, BLOCK, merge)

            return make

        return [
            Contender(
                name="FlexAttention, re-laid keys", make=lambda: flex(q, k, v, BLOCK, relay_inside=False)
            ),
            Contender(
                name="FlexAttention, re-laying keys", make=lambda: flex(q, k, v, BLOCK, relay_inside=True)
            ),
            Contender(name="FA3 composed", make=composed(flash3)),
            Contender(name="FA2 composed", make=composed(lambda: flash_with_lse)),
        ]


def _first(attend: Callable[..., tuple[Tensor, Tensor]], *arguments: object) -> Call:
    return lambda: attend(*arguments)[0]


def _packed(*tensors: Tensor) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]


@dataclass(frozen=True, kw_only=True)
class DecodeRow:
    """One token a row against a cache.

    Attributes:
        batch: B.
        keys: L, the new one included.
        block_only: lam 0 everywhere, else no lam: 1 everywhere.
        heads: H.
        kv_heads: G.
        hot: Whether the cache is left as it is between calls.
    """

    batch: int
    keys: int
    block_only: bool = False
    heads: int = 32
    kv_heads: int = 8
    hot: bool = False

    @property
    def name(self) -> str:
        """As the receipt has it."""
        kind = "block branch" if self.block_only else "dense"
        return f"attention decode, {kind}, B={self.batch}, L={self.keys}"

    @property
    def work(self) -> Work:
        """Operations and bytes."""
        keys = roofline.keys_of_block_branch(self.keys, BLOCK) if self.block_only else self.keys
        return Work(
            operations=roofline.attention_operations(keys, self.heads, HEAD_DIM, self.batch),
            size=roofline.decode_bytes(keys, self.kv_heads, HEAD_DIM, self.batch),
        )

    @property
    def aims(self) -> tuple[Aim, ...]:
        """What it is meant to reach."""
        if self.block_only:
            return (Aim(measure=RATIO, limit=2, peer=("FA3, gathered keys", "FA2, gathered keys")),)
        ratio = Aim(measure=RATIO, limit=1, peer=("FA3", "cuDNN", "flash SDPA (FA2)"))
        if self.work.size < BANDWIDTH_BOUND:
            return (ratio,)
        return (ratio, Aim(measure=SHARE_OF_DATA_SHEET, limit=0.85))

    def contenders(self, library: DeviceKernels, device: str) -> list[Contender]:
        """Ours first. Peers find the new token in the cache already, ours writes it."""
        B, L = self.batch, self.keys
        q = torch.randn(B, 1, self.heads, HEAD_DIM, device=device, dtype=torch.bfloat16)
        caches = [
            torch.randn(B, self.kv_heads, L, HEAD_DIM, device=device, dtype=torch.bfloat16) for _ in range(2)
        ]
        new = [cache[:, :, -1:].transpose(1, 2).contiguous() for cache in caches]
        past = torch.full((B,), L - 1, device=device, dtype=torch.int64)
        lam, y = torch.zeros(B, 1, self.heads, device=device), torch.full_like(q, float("nan"))

        def ours() -> Call:
            params = library.params(
                AttentionParams, data_type=BFLOAT16, batch=B, seq=1, heads=self.heads, kv_heads=self.kv_heads,
                qk_head_dim=HEAD_DIM, v_head_dim=HEAD_DIM, block_size=BLOCK, inter_block=ALL_TO_FIRST,
                q=q.data_ptr(), k=new[0].data_ptr(), v=new[1].data_ptr(), past_len=past.data_ptr(),
                y=y.data_ptr(), lam=lam.data_ptr() if self.block_only else None,
                key_cache=caches[0].data_ptr(), value_cache=caches[1].data_ptr(), cache_capacity=L,
            )  # fmt: skip
            return launch(library, params, y, q, *caches, *new, past, lam)

        keys, values = (cache.transpose(1, 2) for cache in caches)
        if self.block_only:
            own = (L - 1) // BLOCK * BLOCK
            seen = [*range(0, own, BLOCK), *range(own, L)]
            keys, values = (tensor[:, seen].contiguous() for tensor in (keys, values))
        kind = ", gathered keys" if self.block_only else ""
        return [
            Contender(name=OURS, make=ours),
            Contender(name=f"FA3{kind}", make=lambda: _first(flash3(), q, *_packed(keys, values), False)),
            Contender(
                name=f"cuDNN{kind}",
                make=lambda: sdpa(SDPBackend.CUDNN_ATTENTION, q, keys, values, causal=False),
            ),
            Contender(
                name=f"{'FA2' if self.block_only else 'flash SDPA (FA2)'}{kind}",
                make=lambda: sdpa(SDPBackend.FLASH_ATTENTION, q, keys, values, causal=False),
            ),
        ]


def _prefill(tokens: int, limit: float) -> PrefillRow:
    return PrefillRow(tokens=tokens, aims=(Aim(measure=RATIO, limit=limit, peer=FULL_PEERS[:1]),))


ROWS: list[Row] = [
    _prefill(2048, 3),
    _prefill(8192, 8),
    DecodeRow(batch=1, keys=2048),
    DecodeRow(batch=32, keys=8192),
    DecodeRow(batch=32, keys=8192, block_only=True),
    PrefillRow(tokens=8192, lam="heads", aims=(Aim(measure=RATIO, limit=3, peer=FULL_PEERS[:1]),)),
    PrefillRow(tokens=8192, lam="dense"),
    _prefill(32768, 20),
    PrefillRow(tokens=2048, batch=4),
    PrefillRow(tokens=2048, lam="heads"),
    PrefillRow(tokens=2048, lam="dense"),
    DecodeRow(batch=8, keys=32768),
    DecodeRow(batch=128, keys=2048),
    DecodeRow(batch=1, keys=32768, block_only=True),
]
