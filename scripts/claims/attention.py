"""Attention patterns that the rows compare, in the reference model's place, and their arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from fast_attention import block_attention, causal_attention, window_attention
from torch import Tensor, nn
from torch.nn import functional as F

from r1trt.config import HlaConfig, ModelConfig
from r1trt.model import R1AsaForCausalLM
from r1trt.model.attention import HybridLengthAttention, lam_after_skip

LAM_SKIP = 0.49  # a gate decides: one of the two branches


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Which keys a query sees.

    Attributes:
        kind: `full`, the gated mixture `hla`, its branch `block` alone, the last tokens (`window`), or the
            own block and the `routed` blocks whose mean key is nearest to the query.
        window: Tokens of the window.
        routed: How many earlier blocks a query is routed to.
        key_width: Tokens of a causal convolution over the keys; 0 for none.
    """

    kind: Literal["full", "hla", "block", "window", "routed"]
    window: int = 0
    routed: int = 0
    key_width: int = 0


class ConvolvedKeys(nn.Module):
    """Keys plus a short causal convolution of them along the sequence, channel by channel."""

    def __init__(self, projection: nn.Linear, width: int) -> None:
        super().__init__()
        channels = projection.out_features
        self.projection, self.width = projection, width
        self.convolution = nn.Conv1d(channels, channels, width, groups=channels, bias=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Maps `[B, S, D]` to keys `[B, S, N * d]`."""
        k: Tensor = self.projection(x_BSD)
        past = F.pad(k.transpose(1, 2), (self.width - 1, 0))
        return k + F.silu(self.convolution(past)).transpose(1, 2)


class PatternAttention(HybridLengthAttention):
    """The reference's attention over a pattern of keys, for whole sequences from position 0.

    Attributes:
        decided: The gate counts as 0 or 1; its gradient passes as if it did not.
        share: What the last call computed of the query-key products of full attention.
        opened: What of full attention's products the gate let through in the last call, with a gradient.
        noise: Scale of the noise on the gate while it learns to decide.
    """

    def __init__(self, config: ModelConfig, layer: int, pattern: Pattern) -> None:
        super().__init__(config, layer)
        self.pattern, self.decided, self.noise = pattern, False, 0.0
        self.share = self.opened = torch.ones(())

    def _mixed(self, x_BSD: Tensor, q: Tensor, keys: Tensor, values: Tensor, position_BS: Tensor) -> Tensor:
        q_BHSd, kind = q.transpose(1, 2), self.pattern.kind
        if kind == "hla":
            return self._hla(x_BSD, q_BHSd, keys, values).transpose(1, 2)
        if kind == "block":
            self.share = block_pairs(q.shape[1], self.hla).sum() / full_pairs(q.shape[1]).sum()
            return block_attention(q_BHSd, keys, values, self.hla).transpose(1, 2)
        if kind == "window":
            pairs = full_pairs(q.shape[1])
            self.share = pairs.clamp(max=self.pattern.window).sum() / pairs.sum()
            return window_attention(q_BHSd, keys, values, self.pattern.window).transpose(1, 2)
        if kind == "routed":
            return self._routed(q_BHSd, keys, values).transpose(1, 2)
        return causal_attention(q_BHSd, keys, values).transpose(1, 2)

    def _hla(self, x_BSD: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        lam_BSH = self._lam(x_BSD)
        full, block = full_pairs(q.shape[2]), block_pairs(q.shape[2], self.hla)
        self.opened = (lam_BSH.mean((0, 2)) * full).sum() / full.sum()
        self.share = self._computed(lam_BSH.detach(), full, block)
        lam = lam_BSH.transpose(1, 2)[..., None]
        return lam * causal_attention(q, k, v) + (1 - lam) * block_attention(q, k, v, self.hla)

    def _computed(self, lam_BSH: Tensor, full: Tensor, block: Tensor) -> Tensor:
        """Both branches where `lam` is neither 0 nor 1: the reference computes them apart."""
        pairs = (lam_BSH > 0) * full[:, None] + (lam_BSH < 1) * block[:, None]
        return pairs.mean((0, 2)).sum() / full.sum()

    def _lam(self, x_BSD: Tensor) -> Tensor:
        assert self.lam_gate is not None
        lam: Tensor = self.lam_gate(x_BSD)
        if self.training and self.noise:
            lam = (lam.logit() + self.noise * torch.rand_like(lam).logit(1e-4)).sigmoid()
        if not self.decided:
            return lam
        decided = (lam > 0.5).to(lam.dtype) if self.training else lam_after_skip(lam, LAM_SKIP)
        return decided + (lam - lam.detach())  # exactly 0 or 1

    def _routed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        size, S = self.hla.block_size, q.shape[2]
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        own = (torch.arange(S) // size)[:, None]
        earlier = torch.arange(S // size) < own
        scores = q.detach() @ k.detach().view(*k.shape[:2], -1, size, k.shape[-1]).mean(3).mT
        scores = scores.masked_fill(~earlier, -torch.inf)
        best = scores.topk(min(self.pattern.routed, S // size), -1).indices
        blocks = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True) & earlier
        blocks = blocks | (torch.arange(S // size) == own)
        seen = blocks.repeat_interleave(size, -1) & torch.ones(S, S, dtype=torch.bool).tril()
        pairs = seen.sum(-1).float().mean((0, 1)) + earlier.sum(-1)  # the routing's products too
        self.share = pairs.sum() / full_pairs(S).sum()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


def full_pairs(length: int) -> Tensor:
    """Keys that each query of full attention sees, `[S]`."""
    return torch.arange(1.0, length + 1)


def block_pairs(length: int, hla: HlaConfig) -> Tensor:
    """Keys that each query of the block branch sees, `[S]`."""
    place, block = torch.arange(length) % hla.block_size, torch.arange(length) // hla.block_size
    sees_firsts = (place == 0) | (hla.inter_block == "all_to_first")
    return (place + 1 + block * sees_firsts).float()


def with_pattern(module: R1AsaForCausalLM, pattern: Pattern) -> R1AsaForCausalLM:
    """Puts a pattern in the place of a module's attention, in place; weights stay where they fit."""
    for index, layer in enumerate(module.model.layers):
        attention = PatternAttention(module.config, index, pattern)
        attention.load_state_dict(cast(nn.Module, layer.self_attn).state_dict())
        if pattern.key_width:
            attention.add_module("k_proj", ConvolvedKeys(attention.k_proj, pattern.key_width))
        layer.self_attn = attention
    return module


def attentions_of(module: nn.Module) -> list[PatternAttention]:
    """The attention of every layer."""
    return [each for each in module.modules() if isinstance(each, PatternAttention)]


def share_of(module: nn.Module) -> float:
    """What the last forward pass computed of full attention's query-key products, over all layers."""
    return float(torch.stack([each.share for each in attentions_of(module)]).mean())


def opened_of(module: nn.Module) -> Tensor:
    """What the gates let through of full attention's query-key products, over all layers."""
    return torch.stack([each.opened for each in attentions_of(module)]).mean()
