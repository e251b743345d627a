"""Block and window attention without masks over all keys: what each query may see is laid out apart.

`S` is a multiple of the block; sequences start at position 0. The results are those of the masks in
`r1trt.model.attention`, of which these are the faster form for training.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from r1trt.config import HlaConfig


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of q `[B, H, S, d]` over k and v `[B, N, S, d]`."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def block_attention(q: Tensor, k: Tensor, v: Tensor, hla: HlaConfig) -> Tensor:
    """The block branch of HLA: own block, and first tokens of earlier ones; shapes as above."""
    size = hla.block_size
    seen = inter_block_mask(q.shape[2] // size, hla)
    return _chunked(q, _with_firsts(k, size), _with_firsts(v, size), seen)


def window_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention over the last `window` tokens, the query's own included; shapes as above."""
    if q.shape[2] <= window:
        return causal_attention(q, k, v)
    key, query = torch.arange(2 * window) - window, torch.arange(window)[:, None]
    near = (key <= query) & (key > query - window)
    seen = near.repeat(q.shape[2] // window, 1, 1)
    seen[0] &= key >= 0
    return _chunked(q, _with_previous(k, window), _with_previous(v, window), seen)


def inter_block_mask(blocks: int, hla: HlaConfig) -> Tensor:
    """Which of all first tokens and of its own block a query sees, bool `[blocks, size, blocks + size]`."""
    size = hla.block_size
    earlier = (torch.arange(blocks) < torch.arange(blocks)[:, None])[:, None].repeat(1, size, 1)
    if hla.inter_block == "first_to_first":
        earlier[:, 1:] = False
    own = torch.ones(size, size, dtype=torch.bool).tril().expand(blocks, -1, -1)
    return torch.cat([earlier, own], -1)


def _chunked(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Attends chunk by chunk: q `[B, H, C * s, d]`, k and v `[B, N, C, L, d]`, mask `[C, s, L]`."""
    B, H, S, d = q.shape
    C, s, _ = seen.shape
    k, v = (t.repeat_interleave(H // t.shape[1], 1) for t in (k, v))
    q, k, v = (t.transpose(1, 2).flatten(0, 1) for t in (q.view(B, H, C, s, d), k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None].repeat(B, 1, 1, 1))
    return out.view(B, C, H, s, d).transpose(1, 2).reshape(B, H, S, d)


def _blocks(t: Tensor, size: int) -> Tensor:
    """`[B, N, C * size, d]` to `[B, N, C, size, d]`."""
    B, N, _, d = t.shape
    return t.reshape(B, N, -1, size, d)


def _with_firsts(t: Tensor, size: int) -> Tensor:
    """`[B, N, C * size, d]` to `[B, N, C, C + size, d]`: before each block the first tokens of all."""
    blocks = _blocks(t, size)
    firsts = t[:, :, None, ::size].expand(-1, -1, blocks.shape[2], -1, -1)
    return torch.cat([firsts, blocks], 3)


def _with_previous(t: Tensor, size: int) -> Tensor:
    """`[B, N, C * size, d]` to `[B, N, C, 2 * size, d]`: before each block the one before it."""
    blocks = _blocks(t, size)
    return torch.cat([F.pad(blocks, (0, 0, 0, 0, 1, 0))[:, :, :-1], blocks], 3)
