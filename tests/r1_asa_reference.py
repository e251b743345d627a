"""R1-ASA in NumPy, FP64, one sequence, one token and one head at a time: what every other form is held to.

Written from the architecture's text alone; nothing of `r1trt` but the configuration is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r1trt.config import GqaConfig, LayerConfig, ModelConfig, MoeConfig

Array = NDArray[np.float64]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def rms_norm(x: Array, weight: Array, epsilon: float) -> Array:
    return x / math.sqrt((x * x).mean() + epsilon) * weight


def swiglu(x: Array, gate: Array, up: Array, down: Array) -> Array:
    g = gate @ x
    return down @ (g * sigmoid(g) * (up @ x))


def rotate(x: Array, position: int, config: ModelConfig, inv_freq: Array, factor: float) -> Array:
    """Rotates one head at one position."""
    rope = config.rope
    temperature = 1.0
    if rope.temperature_alpha and position >= rope.original_max_position:
        temperature = 1 + rope.temperature_alpha * math.log(position / rope.original_max_position)
    y = x.copy()
    for i, frequency in enumerate(inv_freq):
        a, b = (2 * i, 2 * i + 1) if rope.interleaved else (i, i + rope.rotary_dim // 2)
        cos, sin = (factor * temperature * f(position * float(frequency)) for f in (math.cos, math.sin))
        y[a], y[b] = x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin
    return y


def softmax_attention(q: Array, keys: list[Array], values: list[Array]) -> Array:
    scores = np.array([q @ k for k in keys]) / math.sqrt(len(q))
    weights = np.exp(scores - scores.max())
    return (weights / weights.sum()) @ np.array(values)


def block_keys(i: int, block_size: int, inter_block: str) -> list[int]:
    """The keys that the block branch of query `i` sees."""
    start = i // block_size * block_size
    sees_first = inter_block == "all_to_first" or i == start
    return [j for j in range(i + 1) if j >= start or (sees_first and j % block_size == 0)]


def routed_experts(logits: Array, bias: Array | None, moe: MoeConfig) -> dict[int, float]:
    """One token's experts and their weights."""
    scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    if moe.scoring == "sigmoid":
        scores = sigmoid(logits)
    selection = scores if bias is None else scores + bias
    size = moe.num_experts // moe.n_group
    groups = range(moe.n_group)
    if moe.n_group > 1:
        best = 1 if moe.topk_method == "group_limited_greedy" else 2
        total = [sum(sorted(selection[g * size : (g + 1) * size])[-best:]) for g in groups]
        groups = sorted(groups, key=lambda g: (-total[g], g))[: moe.topk_group]
    allowed = [e for e in range(moe.num_experts) if e // size in groups]
    candidates = sorted(allowed, key=lambda e: (-selection[e], e))[: moe.top_k]
    k = moe.top_k
    if moe.adaptive_threshold < 1:
        needed = moe.adaptive_threshold * sum(scores[e] for e in candidates)
        reached = [
            k for k in range(moe.top_k_min, moe.top_k) if sum(scores[e] for e in candidates[:k]) >= needed
        ]
        k = min(reached, default=moe.top_k)
    kept = candidates[:k]
    norm = sum(scores[e] for e in kept) + 1e-20 if moe.norm_topk_prob else 1.0
    return {e: scores[e] / norm * moe.routed_scaling_factor for e in kept}


class Reference:
    """The model of a configuration and a checkpoint's tensors.

    Args:
        config: The model.
        tensors: Weights by checkpoint name, converted to FP64.
        inv_freq: `[rotary_dim / 2]`.
        attention_factor: Factor of cosines and sines.
    """

    def __init__(
        self, config: ModelConfig, tensors: Mapping[str, Any], inv_freq: Any, attention_factor: float = 1.0
    ) -> None:
        self.config = config
        self.w = {name: np.asarray(tensor, dtype=np.float64) for name, tensor in tensors.items()}
        self.inv_freq, self.attention_factor = np.asarray(inv_freq, dtype=np.float64), attention_factor

    def logits(self, ids: list[int]) -> Array:
        """Logits `[S, V]` of one sequence."""
        x = [self.w["model.embed_tokens.weight"][i] for i in ids]
        for index, layer in enumerate(self.config.layers):
            x = self._layer(x, f"model.layers.{index}.", layer)
        head = "model.embed_tokens.weight" if self.config.tie_word_embeddings else "lm_head.weight"
        return np.stack([self.w[head] @ self._norm(t, "model.norm.weight") for t in x])

    def _norm(self, x: Array, name: str) -> Array:
        return rms_norm(x, self.w[name], self.config.rms_norm_eps)

    def _layer(self, x: list[Array], prefix: str, layer: LayerConfig) -> list[Array]:
        attended = self._attention(
            [self._norm(t, prefix + "input_layernorm.weight") for t in x], prefix, layer.attention
        )
        x = [t + a for t, a in zip(x, attended, strict=True)]
        normed = [self._norm(t, prefix + "post_attention_layernorm.weight") for t in x]
        name = prefix + "mlp."
        moe = layer.mlp if isinstance(layer.mlp, MoeConfig) else None
        return [
            t + (self._dense(h, name) if moe is None else self._moe(h, name, moe))
            for t, h in zip(x, normed, strict=True)
        ]

    def _heads(self, x: Array, name: str, size: int) -> Array:
        y = self.w[name + ".weight"] @ x + self.w.get(name + ".bias", 0)
        return y.reshape(-1, size)

    def _attention(self, x: list[Array], prefix: str, config: GqaConfig) -> list[Array]:
        name, size, hla = prefix + "self_attn.", config.head_dim, config.hla
        turn = [self.inv_freq, self.attention_factor]
        q, k = (
            [
                [rotate(h, i, self.config, *turn) for h in self._heads(t, name + p, size)]
                for i, t in enumerate(x)
            ]
            for p in ("q_proj", "k_proj")
        )
        v = [self._heads(t, name + "v_proj", size) for t in x]
        group = config.num_heads // config.num_kv_heads
        out = []
        for i, t in enumerate(x):
            lam = self._lam(t, name + "lam_gate", config)
            heads = []
            for h in range(config.num_heads):
                keys, values = [row[h // group] for row in k], [row[h // group] for row in v]
                full = softmax_attention(q[i][h], keys[: i + 1], values[: i + 1])
                near = block_keys(i, hla.block_size, hla.inter_block)
                block = softmax_attention(q[i][h], [keys[j] for j in near], [values[j] for j in near])
                heads.append(lam[h] * full + (1 - lam[h]) * block)
            out.append(
                self.w[name + "o_proj.weight"] @ np.concatenate(heads) + self.w.get(name + "o_proj.bias", 0)
            )
        return out

    def _lam(self, x: Array, name: str, config: GqaConfig) -> list[float]:
        if not config.hla.gate:
            return [1.0] * config.num_heads
        skip = config.hla.lam_skip
        lam = sigmoid(self.w[name + ".weight"] @ x + self.w[name + ".bias"])
        return [0.0 if value < skip else 1.0 if value > 1 - skip else float(value) for value in lam]

    def _dense(self, x: Array, prefix: str) -> Array:
        return swiglu(x, *(self.w[f"{prefix}{p}_proj.weight"] for p in ("gate", "up", "down")))

    def _moe(self, x: Array, prefix: str, moe: MoeConfig) -> Array:
        bias = self.w.get(prefix + "router.e_score_correction_bias")
        weights = routed_experts(self.w[prefix + "router.weight"] @ x, bias, moe)
        y = np.sum([w * self._dense(x, f"{prefix}experts.{e}.") for e, w in weights.items()], axis=0)
        return y + self._dense(x, prefix + "shared_expert.") if moe.shared_width else y
