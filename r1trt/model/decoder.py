"""The decoder: pre-norm layers of hybrid-length attention and experts, final norm and head."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from r1trt.config import MlpConfig, ModelConfig, MoeConfig
from r1trt.errors import R1TrtError
from r1trt.model.attention import HybridLengthAttention, KvCache
from r1trt.model.moe import DynamicMoe, Router, SwiGlu
from r1trt.model.norm import RmsNorm
from r1trt.model.rope import DynamicRope


class DecoderLayer(nn.Module):
    """`h = x + attention(norm(x))`, then `h + mlp(norm(h))`.

    Args:
        config: The model.
        layer: Index of this layer.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = HybridLengthAttention(config, layer)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = _mlp(config.layers[layer].mlp, config.hidden_size)

    def forward(
        self, x_BSD: Tensor, position_BS: Tensor, valid_BS: Tensor, rope: DynamicRope, past: KvCache | None
    ) -> Tensor:
        """Returns the residual stream after this layer, `[B, S, D]`."""
        h = x_BSD + self.self_attn(self.input_layernorm(x_BSD), position_BS, valid_BS, rope, past)
        normalized = self.post_attention_layernorm(h)
        if isinstance(self.mlp, DynamicMoe):
            return cast(Tensor, h + self.mlp(normalized, valid_BS))
        return cast(Tensor, h + self.mlp(normalized))


def _mlp(config: MlpConfig, hidden_size: int) -> DynamicMoe | SwiGlu:
    if isinstance(config, MoeConfig):
        return DynamicMoe(config, hidden_size)
    return SwiGlu(hidden_size, config.width, bias=config.bias)


class R1AsaModel(nn.Module):
    """Embedding, layers and final norm; parameter names are the checkpoint's tensor names after `model.`.

    Args:
        config: The model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)


class R1AsaForCausalLM(nn.Module):
    """R1-ASA; the dense families are the special case without gate and experts.

    Args:
        config: The model.
        max_seq_len: Longest sequence that `dynamic` and `longrope` frequencies are frozen at; the model's
            context length by default.

    Attributes:
        recomputed: Indices of decoder layers that keep nothing but their input for the backward pass, which
            computes them again: less memory for more time, and the same gradients.
    """

    def __init__(self, config: ModelConfig, max_seq_len: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.recomputed: frozenset[int] = frozenset()
        self.rope = DynamicRope(config, max_seq_len or config.max_position_embeddings)
        self.model = R1AsaModel(config)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """Draws weights of variance 1 / fan-in from torch's generator: activations keep their scale."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding | Router):
                module.weight.normal_(std=1 / math.sqrt(module.weight.shape[-1]))
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()

    def forward(
        self, input_ids_BS: Tensor, seq_len_B: Tensor | None = None, past: KvCache | None = None
    ) -> Tensor:
        """Computes next-token logits.

        Args:
            input_ids_BS: Token ids, padded on the right.
            seq_len_B: Tokens of every row that are not padding; all by default.
            past: Cache with what came before. The call's keys and values are appended to it, without
                gradients.

        Returns:
            Logits `[B, S, V]` in the module's dtype; those of padding mean nothing.

        Raises:
            R1TrtError: The call does not fit the cache, or a length lies outside `0..S`.
        """
        B, S = input_ids_BS.shape
        token_S = torch.arange(S, device=input_ids_BS.device)
        seq_len_B = self._checked_lengths(input_ids_BS, seq_len_B)
        valid_BS = token_S < seq_len_B[:, None]
        position_BS = token_S.expand(B, S)
        if past is not None:
            past.check_room(B, S)
            position_BS = position_BS + past.past_len_B[:, None]
        x_BSD: Tensor = self.model.embed_tokens(input_ids_BS)
        for index, layer in enumerate(self.model.layers):
            arguments = (x_BSD, position_BS, valid_BS, self.rope, past)
            if index in self.recomputed and torch.is_grad_enabled():
                # NOTES: nothing here draws random numbers whose state would have to come back.
                x_BSD = checkpoint(layer, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BSD = layer(*arguments)
        if past is not None:
            past.advance(seq_len_B)
        head = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return F.linear(self.model.norm(x_BSD), head.weight)

    def _checked_lengths(self, input_ids_BS: Tensor, seq_len_B: Tensor | None) -> Tensor:
        B, S = input_ids_BS.shape
        if seq_len_B is None:
            return torch.full((B,), S, dtype=torch.int64, device=input_ids_BS.device)
        if seq_len_B.shape != (B,) or bool(((seq_len_B < 0) | (seq_len_B > S)).any()):
            raise R1TrtError(
                "Sequence lengths do not fit the token ids.",
                found=seq_len_B.tolist(),
                expected=f"{B} lengths from 0 to {S}",
            )
        return seq_len_B.to(torch.int64)
