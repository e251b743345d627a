"""The three operators in float64, by their definitions; slow and obvious."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Array = np.ndarray
Attributes = Mapping[str, float]


def rope(x: Array, inv_freq: Array, past_len: Array, attributes: Attributes) -> Array:
    """Rotates `[B, S, N, d]`."""
    x, half = x.astype(np.float64), len(inv_freq)
    position = past_len[:, None] + np.arange(x.shape[1])
    original, alpha = attributes["original_max_position"], attributes["temperature_alpha"]
    temperature = np.ones(position.shape)
    if original > 0:
        temperature = np.where(
            position >= original, 1 + alpha * np.log(np.maximum(position, 1) / original), 1
        )
    angle = (position[..., None] * inv_freq.astype(np.float64))[:, :, None]
    factor = (temperature * attributes["attention_factor"])[:, :, None, None]
    cos, sin = np.cos(angle) * factor, np.sin(angle) * factor
    if attributes["interleaved"]:
        first, second = np.arange(0, 2 * half, 2), np.arange(1, 2 * half, 2)
    else:
        first, second = np.arange(half), np.arange(half, 2 * half)
    y = x.copy()
    y[..., first] = x[..., first] * cos - x[..., second] * sin
    y[..., second] = x[..., second] * cos + x[..., first] * sin
    return y


def _softmax_sum(scores: Array, allowed: Array, values: Array) -> Array:
    weights = np.exp(scores[allowed] - scores[allowed].max())
    return np.asarray(weights @ values[allowed] / weights.sum())


def attention(tensors: Mapping[str, Array], attributes: Attributes) -> tuple[Array, Array, Array]:
    """Returns y and both caches; without caches in `tensors`, keys and values of this call."""
    q, k, v = (tensors[name].astype(np.float64) for name in ("q", "k", "v"))
    batch, seq, heads, head_dim = q.shape
    cached = "key_cache" in tensors
    past_len = tensors["past_len"] if cached else np.zeros(batch, np.int64)
    shape = (batch, k.shape[2], seq, head_dim)
    keys = tensors["key_cache"].astype(np.float64) if cached else np.zeros(shape)
    values = tensors["value_cache"].astype(np.float64) if cached else np.zeros((*shape[:3], v.shape[3]))
    lam = tensors.get("lam", np.ones(q.shape[:3], np.float32)).astype(np.float64)
    skip, block = attributes["lam_skip"], int(attributes["block_size"])
    lam = np.where(lam < skip, 0.0, np.where(lam > 1 - skip, 1.0, lam))
    scale = attributes["scale"] or head_dim**-0.5
    y = np.zeros((*q.shape[:3], v.shape[3]))
    for b in range(batch):
        valid = int(tensors["seq_len"][b])
        slots = slice(int(past_len[b]), int(past_len[b]) + valid)
        keys[b, :, slots] = k[b, :valid].swapaxes(0, 1)
        values[b, :, slots] = v[b, :valid].swapaxes(0, 1)
        for s in range(valid):
            position = int(past_len[b]) + s
            j = np.arange(keys.shape[2])
            full, own = j <= position, j // block == position // block
            sees_firsts = attributes["inter_block"] == 1 or position % block == 0
            near = full & (own | (sees_firsts & (j % block == 0)))
            for h in range(heads):
                group = h // (heads // keys.shape[1])
                scores = keys[b, group] @ q[b, s, h] * scale
                mix = [_softmax_sum(scores, allowed, values[b, group]) for allowed in (full, near)]
                y[b, s, h] = lam[b, s, h] * mix[0] + (1 - lam[b, s, h]) * mix[1]
    return y, keys, values


def _expert(x: Array, gate_up: Array, down: Array) -> Array:
    gate, up = np.split(gate_up @ x, 2)
    return np.asarray(down @ (gate / (1 + np.exp(-gate)) * up))


def _routing(x: Array, tensors: Mapping[str, Array], attributes: Attributes) -> dict[int, float]:
    logits = tensors["w_router"].astype(np.float64) @ x
    exponents = np.exp(logits - logits.max())
    scores = 1 / (1 + np.exp(-logits)) if attributes["scoring"] else exponents / exponents.sum()
    selection = scores + tensors.get("router_bias", np.zeros(len(scores)))
    if attributes["topk_method"]:
        groups = selection.reshape(int(attributes["n_group"]), -1)
        best = 2 if attributes["topk_method"] == 2 else 1
        group_scores = np.sort(groups, axis=1)[:, -best:].sum(1)
        kept_groups = np.argsort(-group_scores, kind="stable")[: int(attributes["topk_group"])]
        mask = np.full(groups.shape, -np.inf)
        mask[kept_groups] = 0
        selection = selection + mask.reshape(-1)
    candidates = np.argsort(-selection, kind="stable")[: int(attributes["top_k"])]
    weights = scores[candidates]
    kept = len(candidates)
    if attributes["adaptive_threshold"] < 1:
        share = np.cumsum(weights) / weights.sum()
        kept = max(
            int(np.argmax(share >= attributes["adaptive_threshold"])) + 1, int(attributes["top_k_min"])
        )
    weights = weights[:kept]
    if attributes["norm_topk_prob"]:
        weights = weights / (weights.sum() + 1e-20)
    return dict(zip(candidates[:kept].tolist(), weights * attributes["routed_scaling_factor"], strict=True))


def moe(tensors: Mapping[str, Array], attributes: Attributes) -> Array:
    """Weights as they are; FP8 ones have to be dequantized before."""
    x = tensors["x"].astype(np.float64)
    gate_up, down = tensors["w_gate_up"].astype(np.float64), tensors["w_down"].astype(np.float64)
    y = np.zeros(x.shape)
    for b, valid in enumerate(tensors["seq_len"]):
        for s in range(int(valid)):
            for expert, weight in _routing(x[b, s], tensors, attributes).items():
                y[b, s] += weight * _expert(x[b, s], gate_up[expert], down[expert])
            if "shared_gate_up" in tensors:
                shared = [tensors[name].astype(np.float64) for name in ("shared_gate_up", "shared_down")]
                y[b, s] += _expert(x[b, s], *shared)
    return y
