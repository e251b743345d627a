"""Multi-head latent attention: keys and values of all heads are made from one compressed vector a token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from r1trt.config.checks import MAX_WIDTH, require, require_number, require_size


@dataclass(frozen=True, kw_only=True)
class MlaConfig:
    """Attention over a latent of `kv_lora_rank` elements and a rotated key that all heads share.

    Attributes:
        num_heads: Query heads.
        q_lora_rank: Elements that queries are compressed to; None where they are not.
        kv_lora_rank: Elements of the latent.
        qk_nope_head_dim: Elements of a query head that are not rotated.
        qk_rope_head_dim: Elements of a query head, and of the shared key, that RoPE rotates.
        v_head_dim: Elements of a value head.
        scale: Factor of the scores; YaRN's magnitude is in it, squared.
        bias: The projections to both low ranks and the output projection have biases.
        norm_eps: Epsilon of the norms of both low ranks.
    """

    num_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    scale: float
    bias: bool = False
    # NOTES: the published models and `transformers` keep this value whatever rms_norm_eps is.
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range."""
        sizes = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        require_size("num_attention_heads", self.num_heads, MAX_WIDTH)
        for name in sizes:
            require_size(name, getattr(self, name), MAX_WIDTH)
        if self.q_lora_rank is not None:
            require_size("q_lora_rank", self.q_lora_rank, MAX_WIDTH)
        require_number("scale of the scores", self.scale, minimum=0, exclusive=True)
        require_number("epsilon of the low ranks' norms", self.norm_eps, minimum=0, exclusive=True)
        widest = max(self.qk_head_dim, self.qk_nope_head_dim + self.v_head_dim, self.latent_dim)
        require(
            self.num_heads * widest <= MAX_WIDTH,
            "the attention is too wide",
            found=f"{self.num_heads} heads of {widest} elements",
            expected=f"at most {MAX_WIDTH} elements in all",
        )

    @property
    def qk_head_dim(self) -> int:
        """Elements of a query head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def latent_dim(self) -> int:
        """Elements that the cache holds of a token: the latent, and the rotated key behind it."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def rope_dim(self) -> int:
        """Elements of a head that RoPE can rotate."""
        return self.qk_rope_head_dim

    @property
    def symbols(self) -> Mapping[str, int]:
        """Sizes by their symbols in tables of tensors."""
        heads = self.num_heads
        return {
            "H": heads,
            "Q": heads * self.qk_head_dim,
            "KV": heads * (self.qk_nope_head_dim + self.v_head_dim),
            "O": heads * self.v_head_dim,
            "R": self.kv_lora_rank,
            "L": self.latent_dim,
            "Rq": self.q_lora_rank or 0,
        }

    @property
    def is_continuous(self) -> bool:
        """A small change of the input makes a small one of the output."""
        return True
