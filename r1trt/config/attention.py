"""Attention with grouped queries, R1-ASA's hybrid-length mixture as an option; and the kinds there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from r1trt.config.checks import (
    MAX_POSITIONS,
    MAX_WIDTH,
    require,
    require_choice,
    require_number,
    require_size,
)
from r1trt.config.mla import MlaConfig

InterBlock = Literal["first_to_first", "all_to_first"]


@dataclass(frozen=True, kw_only=True)
class HlaConfig:
    """Hybrid-length attention; without a gate it is ordinary causal attention (`lam = 1`).

    Attributes:
        block_size: Tokens of a block.
        inter_block: Which queries see the first tokens of earlier blocks.
        lam_skip: Below this (above one minus this) `lam` counts as 0 (1); 0 switches it off.
        gate: The checkpoint holds `self_attn.lam_gate`.
    """

    block_size: int = 32
    inter_block: InterBlock = "first_to_first"
    lam_skip: float = 0.0
    gate: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range."""
        require_size("hla_block_size", self.block_size, MAX_WIDTH)
        require_choice("hla_inter_block", self.inter_block, ("first_to_first", "all_to_first"))
        require_number("hla_lam_skip", self.lam_skip, minimum=0)
        require(self.lam_skip < 0.5, "hla_lam_skip is too large", found=self.lam_skip, expected="< 0.5")


@dataclass(frozen=True, kw_only=True)
class GqaConfig:
    """Attention with grouped queries: several query heads share a key/value head.

    Attributes:
        num_heads: Query heads.
        num_kv_heads: Key/value heads; divides `num_heads`.
        head_dim: Elements of a head.
        qkv_bias: q, k and v projections have biases.
        o_bias: The output projection has a bias.
        qk_norm: Every head of q and k passes an RMSNorm before RoPE.
        window: A query sees this many last tokens, its own included; None means all of them.
        hla: Hybrid-length attention.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    hla: HlaConfig = field(default_factory=HlaConfig)

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range, and heads that do not share evenly."""
        require_size("num_attention_heads", self.num_heads, MAX_WIDTH)
        require_size("num_key_value_heads", self.num_kv_heads, MAX_WIDTH)
        require_size("head_dim", self.head_dim, MAX_WIDTH)
        if self.window is not None:
            require_size("sliding_window", self.window, MAX_POSITIONS)
        require(
            self.num_heads % self.num_kv_heads == 0,
            "query heads do not share key/value heads evenly",
            found=f"num_attention_heads {self.num_heads}, num_key_value_heads {self.num_kv_heads}",
            expected="the first divisible by the second",
        )
        require(
            self.q_width <= MAX_WIDTH,
            "the attention is too wide",
            found=f"{self.num_heads} heads of {self.head_dim} elements",
            expected=f"at most {MAX_WIDTH} elements in all",
        )

    @property
    def q_width(self) -> int:
        """Elements of all query heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Elements of all key heads, and of all value heads."""
        return self.num_kv_heads * self.head_dim

    @property
    def rope_dim(self) -> int:
        """Elements of a head that RoPE can rotate."""
        return self.head_dim

    @property
    def symbols(self) -> Mapping[str, int]:
        """Sizes by their symbols in tables of tensors."""
        return {"d": self.head_dim, "H": self.num_heads, "Q": self.q_width, "KV": self.kv_width}

    @property
    def is_continuous(self) -> bool:
        """A small change of the input makes a small one of the output: no gate decides."""
        return not self.hla.gate


AttentionConfig: TypeAlias = GqaConfig | MlaConfig
"""The attention of a layer."""
