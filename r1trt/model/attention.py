"""Hybrid-length attention by its definition: two masks over all keys, mixed by `lam`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from r1trt.config import GqaConfig, HlaConfig, ModelConfig
from r1trt.errors import ConfigError, R1TrtError
from r1trt.model.norm import RmsNorm, widened
from r1trt.model.rope import DynamicRope


def gqa_of_layer(config: ModelConfig, layer: int) -> GqaConfig:
    """The attention of a layer.

    Raises:
        ConfigError: It is of a kind that this module does not compute.
    """
    attention = config.layers[layer].attention
    if not isinstance(attention, GqaConfig):
        raise ConfigError(
            "The PyTorch reference computes attention with grouped queries only.",
            found=config.architecture,
            fix="take the class of `transformers` for this architecture",
        )
    return attention


class KvCache:
    """Keys and values of all layers `[B, N, C, d]`, and how many of them every row of the batch holds.

    Args:
        config: The model.
        batch_size: Rows.
        capacity: Most tokens of a row, padding of a call included.
        dtype: Element type; the module's.
        device: Where the cache lies; the module's.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        capacity: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        attentions = [gqa_of_layer(config, layer) for layer in range(config.num_layers)]
        shapes = [(batch_size, a.num_kv_heads, capacity, a.head_dim) for a in attentions]
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.past_len_B = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.capacity = capacity

    def check_room(self, batch_size: int, new_tokens: int) -> None:
        """Raises R1TrtError if a call of this shape does not fit."""
        longest = int(self.past_len_B.max())
        if batch_size != len(self.past_len_B) or longest + new_tokens > self.capacity:
            raise R1TrtError(
                "The call does not fit the KV cache.",
                found=f"batch {batch_size}, {longest} tokens held and {new_tokens} new ones",
                expected=f"batch {len(self.past_len_B)}, at most {self.capacity} tokens",
                fix="make the KvCache larger, or feed less at once",
            )

    @torch.no_grad()
    def write(self, layer: int, k_BSNd: Tensor, v_BSNd: Tensor, valid_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Appends the valid tokens to their rows, and returns the layer's whole caches `[B, N, C, d]`."""
        row, token = valid_BS.nonzero(as_tuple=True)
        slot = self.past_len_B[row] + token
        self.keys[layer][row, :, slot] = k_BSNd[row, token]
        self.values[layer][row, :, slot] = v_BSNd[row, token]
        return self.keys[layer], self.values[layer]

    def advance(self, seq_len_B: Tensor) -> None:
        """Counts the tokens that every layer has written."""
        self.past_len_B += seq_len_B


class LambdaGate(nn.Linear):
    """`sigmoid(x W^T + b)`: the weight of the full branch, per token and query head."""

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Returns lam `[B, S, H]`, before `lam_skip`, in FP32 or FP64."""
        return F.linear(widened(x_BSD), widened(self.weight), widened(self.bias)).sigmoid()


def lam_after_skip(lam: Tensor, lam_skip: float) -> Tensor:
    """Returns `lam` with what is below `lam_skip` at 0, and above `1 - lam_skip` at 1."""
    if lam_skip == 0:
        return lam
    lam = torch.where(lam < lam_skip, torch.zeros_like(lam), lam)
    return torch.where(lam > 1 - lam_skip, torch.ones_like(lam), lam)


def causal_mask(position_BS: Tensor, num_keys: int) -> Tensor:
    """Returns the keys `j <= i` of every query, bool `[B, S, L]`."""
    return torch.arange(num_keys, device=position_BS.device) <= position_BS[..., None]


def block_mask(position_BS: Tensor, num_keys: int, config: HlaConfig) -> Tensor:
    """Returns the keys that the block branch sees, bool `[B, S, L]`: the own block, and first tokens."""
    query = position_BS[..., None]
    key = torch.arange(num_keys, device=position_BS.device)
    own_block = key // config.block_size == query // config.block_size
    first = key % config.block_size == 0
    if config.inter_block == "first_to_first":
        first = first & (query % config.block_size == 0)
    return (key <= query) & (own_block | first)


def masked_attention(q_BSHd: Tensor, k_BNLd: Tensor, v_BNLd: Tensor, mask_BSL: Tensor) -> Tensor:
    """Softmax attention over the keys that `mask` allows, at least FP32; returns `[B, S, H, d]`."""
    B, S, H, d = q_BSHd.shape
    N = k_BNLd.shape[1]
    q = widened(q_BSHd).view(B, S, N, H // N, d)
    scores = torch.einsum("bsngd,bnld->bngsl", q, widened(k_BNLd)) / math.sqrt(d)
    scores = scores.masked_fill(~mask_BSL[:, None, None], -math.inf)
    out = torch.einsum("bngsl,bnld->bsngd", scores.softmax(-1), widened(v_BNLd))
    return out.reshape(B, S, H, d)


class HybridLengthAttention(nn.Module):
    """`lam * full + (1 - lam) * block` attention with grouped queries; ordinary attention without a gate.

    Args:
        config: The model.
        layer: Index of the decoder layer, which is its place in the KV cache.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        attention, hidden = gqa_of_layer(config, layer), config.hidden_size
        self.hla, self.head_dim, self.layer = attention.hla, attention.head_dim, layer
        self.q_proj = nn.Linear(hidden, attention.q_width, bias=attention.qkv_bias)
        self.k_proj = nn.Linear(hidden, attention.kv_width, bias=attention.qkv_bias)
        self.v_proj = nn.Linear(hidden, attention.kv_width, bias=attention.qkv_bias)
        self.o_proj = nn.Linear(attention.q_width, hidden, bias=attention.o_bias)
        self.q_norm, self.k_norm = (
            RmsNorm(self.head_dim, config.rms_norm_eps) if attention.qk_norm else None for _ in range(2)
        )
        self.lam_gate = LambdaGate(hidden, attention.num_heads) if attention.hla.gate else None

    def forward(
        self, x_BSD: Tensor, position_BS: Tensor, valid_BS: Tensor, rope: DynamicRope, past: KvCache | None
    ) -> Tensor:
        """Attends over what the cache holds and the call's own tokens.

        Args:
            x_BSD: Normalized input.
            position_BS: Absolute positions.
            valid_BS: False for padding, whose output means nothing.
            rope: The rotation.
            past: Cache that the call's keys and values are written to; without one, positions start at 0.

        Returns:
            `[B, S, D]` in the dtype of `x`.
        """
        q, k, v = (
            projection(x_BSD).unflatten(-1, (-1, self.head_dim))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        cos, sin = rope.cos_sin(position_BS, x_BSD)
        q, k = rope.rotate(q, cos, sin), rope.rotate(k, cos, sin)
        if past is None:
            keys, values = k.transpose(1, 2), v.transpose(1, 2)
        else:
            keys, values = past.write(self.layer, k, v, valid_BS)
        out = self._mixed(x_BSD, q, keys, values, position_BS)
        projected: Tensor = self.o_proj(out.flatten(2).to(x_BSD.dtype))
        return projected

    def _mixed(self, x_BSD: Tensor, q: Tensor, keys: Tensor, values: Tensor, position_BS: Tensor) -> Tensor:
        num_keys = keys.shape[2]
        full = masked_attention(q, keys, values, causal_mask(position_BS, num_keys))
        if self.lam_gate is None:
            return full
        block = masked_attention(q, keys, values, block_mask(position_BS, num_keys, self.hla))
        lam = lam_after_skip(self.lam_gate(x_BSD), self.hla.lam_skip)[..., None]
        return lam * full + (1 - lam) * block
