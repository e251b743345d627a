"""What others have for attention, and the block branch composed of it.

Legend: B batch, N tokens, H query heads, G key/value heads, d head size, K block size, M = N / K blocks.
Tensors are [B, N, H, d] and [B, N, G, d]; all functions also run on the CPU where torch does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from r1trt.plugin_checks.bench.peers import PeerMissing, bound, operator, package

# Output [B, N, H, d], and the logarithm of the sum of exponentials [B, H, N].
WithLse = Callable[[Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor]]


def sdpa(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Callable[[], Tensor]:
    """Torch's attention by one of its backends."""
    queries, keys, values = (tensor.transpose(1, 2) for tensor in (q, k, v))

    def call() -> Tensor:
        with sdpa_kernel(backend):
            out = scaled_dot_product_attention(
                queries, keys, values, is_causal=causal, enable_gqa=q.shape[2] != k.shape[2]
            )
        return out.transpose(1, 2)

    return call


def flash_with_lse(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Torch's own FlashAttention (version 2 on a GPU), with the sums that merging needs."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    if q.is_cuda:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False)
    else:
        k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], 1) for tensor in (k, v))
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal)
    return out.transpose(1, 2), lse


def flash3() -> WithLse:
    """FlashAttention 3: of the package flash_attn_3, or as vLLM carries it.

    Raises:
        PeerMissing: Neither is there.
    """
    try:
        function = package("flash_attn_interface").flash_attn_func
        # Older versions return the sums unasked.
        ask = {"return_attn_probs": True} if "return_attn_probs" in signature(function).parameters else {}
        return lambda q, k, v, causal: tuple(function(q, k, v, causal=causal, **ask)[:2])
    except PeerMissing:
        forward = operator("_vllm_fa3_C.abi3.so", ("vllm.vllm_flash_attn",), "_vllm_fa3_C", "fwd")

    def call(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
        B, N, L = *q.shape[:2], k.shape[1]
        out, lse, *_ = bound(
            forward, q=q.flatten(0, 1), k=k.flatten(0, 1), v=v.flatten(0, 1),
            cu_seqlens_q=_starts(B, N, q.device), cu_seqlens_k=_starts(B, L, q.device), max_seqlen_q=N,
            max_seqlen_k=L, softmax_scale=q.shape[-1] ** -0.5, is_causal=causal, window_size_left=-1,
            window_size_right=-1, is_rotary_interleaved=True, where_named={"cp_world_size": 1},
        )()  # fmt: skip
        return out.unflatten(0, (B, N)), lse.unflatten(1, (B, N)).transpose(0, 1)

    return call


@cache
def _starts(batch: int, tokens: int, device: torch.device) -> Tensor:
    """Where the sequences begin: vLLM's build takes nothing but sequences of unequal lengths. Made once."""
    return torch.arange(batch + 1, dtype=torch.int32, device=device) * tokens


def merged(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> Tensor:
    """Attention over two sets of keys of those over each; sums [...], outputs [..., d]."""
    share = torch.sigmoid(other_lse - lse).unsqueeze(-1)
    return (out.float() * (1 - share) + other.float() * share).to(out.dtype)


def block_branch(attend: WithLse, q: Tensor, k: Tensor, v: Tensor, block: int, merge: Any = merged) -> Tensor:
    """The block branch in which every query sees the first token of earlier blocks: two attentions, merged.

    Args:
        attend: Attention with its sums.
        q: [B, N, H, d], N a multiple of `block`.
        k: [B, N, G, d].
        v: [B, N, G, d].
        block: K.
        merge: `merged`, or a compiled form of it.
    """
    B, N, H, d = q.shape
    M, G = N // block, k.shape[2]
    own, own_lse = attend(
        q.reshape(B * M, block, H, d), k.reshape(B * M, block, G, d), v.reshape(B * M, block, G, d), True
    )
    own = own.reshape(B, M, block, H, d)
    if M == 1:
        return own.reshape(B, N, H, d)
    # The r-th queries of all blocks see the firsts of earlier blocks: causal, one block apart.
    later = q.reshape(B, M, block, H, d)[:, 1:].transpose(1, 2).reshape(B * block, M - 1, H, d)
    firsts = [
        tensor.reshape(B, M, block, G, d)[:, :-1, 0].repeat_interleave(block, 0)
        if B > 1
        else tensor.reshape(M, block, G, d)[:-1, 0].expand(block, -1, -1, -1)
        for tensor in (k, v)
    ]
    across, across_lse = attend(later, firsts[0], firsts[1], True)
    across = across.reshape(B, block, M - 1, H, d).transpose(1, 2)
    across_lse = across_lse.reshape(B, block, H, M - 1).permute(0, 3, 1, 2)
    own_lse = own_lse.reshape(B, M, H, block).transpose(2, 3)
    rest = merge(own[:, 1:], own_lse[:, 1:], across, across_lse)
    return torch.cat([own[:, :1], rest], 1).reshape(B, N, H, d)


def relaid(tensor: Tensor, block: int) -> Tensor:
    """Keys or values with the blocks' first tokens in front: [B, G, M + N, d]."""
    return torch.cat([tensor[:, ::block], tensor], 1).transpose(1, 2).contiguous()


def flex_mask(tokens: int, block: int, device: Any) -> Any:
    """FlexAttention's mask of the block branch over re-laid keys, by which it skips what no query sees."""
    from torch.nn.attention.flex_attention import create_block_mask

    firsts = tokens // block

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = key - firsts
        return torch.where(
            key < firsts, key < query // block, (own // block == query // block) & (own <= query)
        )

    return create_block_mask(sees, None, None, tokens, firsts + tokens, device=device)


def flex(q: Tensor, k: Tensor, v: Tensor, block: int, *, relay_inside: bool) -> Callable[[], Tensor]:
    """FlexAttention on re-laid keys, compiled on a GPU; laying them out is inside the call or before it."""
    from torch.nn.attention.flex_attention import flex_attention

    attend = torch.compile(flex_attention, dynamic=False) if q.is_cuda else flex_attention
    mask = flex_mask(q.shape[1], block, q.device)
    queries = q.transpose(1, 2)
    before = None if relay_inside else (relaid(k, block), relaid(v, block))

    def call() -> Tensor:
        keys, values = before or (relaid(k, block), relaid(v, block))
        out = attend(queries, keys, values, block_mask=mask, enable_gqa=True)
        return out.transpose(1, 2)

    return call
