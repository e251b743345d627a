"""A model as data: sizes that all layers share, and for each layer which attention and which MLP it has."""

from __future__ import annotations

from dataclasses import dataclass

from r1trt.config.attention import AttentionConfig, GqaConfig
from r1trt.config.checks import (
    MAX_EXPERTS_OF_ALL_LAYERS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCABULARY,
    MAX_WIDTH,
    require,
    require_number,
    require_size,
)
from r1trt.config.mlp import MlpConfig, MoeConfig
from r1trt.config.quantization import BlockFp8Config
from r1trt.config.rope import RopeConfig


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """One decoder layer: `h = x + attention(norm(x))`, then `h + mlp(norm(h))`.

    Attributes:
        attention: Its attention.
        mlp: Its MLP.
    """

    attention: AttentionConfig
    mlp: MlpConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only model, independent of how its config.json spells it.

    Attributes:
        family: Name of the family that knows its tensors.
        architecture: Hugging Face's class name.
        vocab_size: Rows of the embedding.
        hidden_size: Width of the residual stream.
        rms_norm_eps: Epsilon of every RMSNorm.
        tie_word_embeddings: The head is the embedding.
        max_position_embeddings: Trained (or scaled) context length.
        eos_token_ids: Token ids that end a generation; may be empty.
        rope: Rotary position embedding of all layers.
        layers: The decoder layers, in the order of the forward pass.
        num_nextn_layers: Layers that a checkpoint may hold behind them, which predict further tokens; they
            are no part of the model here.
        quantization: Which weights a checkpoint holds in FP8; None where no weight is.
    """

    family: str
    architecture: str
    vocab_size: int
    hidden_size: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    max_position_embeddings: int
    eos_token_ids: tuple[int, ...]
    rope: RopeConfig
    layers: tuple[LayerConfig, ...]
    num_nextn_layers: int = 0
    quantization: BlockFp8Config | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range or a contradiction between values."""
        require_size("vocab_size", self.vocab_size, MAX_VOCABULARY)
        require_size("hidden_size", self.hidden_size, MAX_WIDTH)
        require_size("num_hidden_layers", len(self.layers), MAX_LAYERS)
        require_size("num_nextn_predict_layers", self.num_nextn_layers, MAX_LAYERS, minimum=0)
        require_size("max_position_embeddings", self.max_position_embeddings, MAX_POSITIONS)
        require_number("rms_norm_eps", self.rms_norm_eps, minimum=0, exclusive=True)
        experts = sum(layer.mlp.num_experts for layer in self.layers if isinstance(layer.mlp, MoeConfig))
        require_size("number of experts in all layers", experts, MAX_EXPERTS_OF_ALL_LAYERS, minimum=0)
        for attention in {layer.attention for layer in self.layers}:
            require(
                self.rope.rotary_dim <= attention.rope_dim,
                "RoPE rotates more elements than a head has",
                found=f"rotary dimension {self.rope.rotary_dim}",
                expected=f"at most {attention.rope_dim} elements",
            )
        for token in self.eos_token_ids:
            require_size("eos_token_id", token, self.vocab_size - 1, minimum=0)

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @property
    def is_continuous(self) -> bool:
        """A small change of the input makes a small one of the logits: no router and no gate decides."""
        return all(layer.attention.is_continuous and layer.mlp.is_continuous for layer in self.layers)

    @property
    def window(self) -> int | None:
        """The shortest sliding window of any layer, in tokens; None where all see every token."""
        attentions = (layer.attention for layer in self.layers)
        windows = (attention.window for attention in attentions if isinstance(attention, GqaConfig))
        return min((window for window in windows if window is not None), default=None)
