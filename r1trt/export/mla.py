"""Multi-head latent attention: one R1HLAAttention over a cache of latents, with the up-projections absorbed.

The product of a query with the key that its head makes of a latent is the product of the query, multiplied by
the head's part of `kv_b_proj`, with the latent itself; and the values that a head makes of latents are made
of the latents' weighted sum. So no head's keys and values ever exist, and one graph serves prefill and
decode.

Legend: B batch, S tokens of this call, C cache capacity, H heads, R elements of the latent, r of the rotated
key behind it, n of a query head that are not rotated, dv of a value head.
"""

from __future__ import annotations

import onnx_ir as ir

from r1trt.config import MlaConfig
from r1trt.export.forward import FLOAT, Attended, Forward, cut, linear, reshape, rms_norm, sizes
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE
from r1trt.ops.head_product import HEAD_LINEAR, HEAD_MATMUL
from r1trt.ops.hla_attention import HLA_ATTENTION


def mla_attention(forward: Forward, index: int, config: MlaConfig, x: ir.Value) -> Attended:
    """Emit the attention of layer `index` for x [B,S,D]."""
    emit, prefix = forward.emit, f"model.layers.{index}.self_attn"
    q_nope, q_rope = _query(forward, prefix, config, x)
    latent, k_rope = _latent(forward, prefix, config, x)
    q_rope, k_rope = _rope(forward, f"{prefix}.rope", config, q_rope, k_rope)
    key_half, value_half = _absorbed(forward, f"{prefix}.kv_b_proj", config)
    heads, rank, value = config.num_heads, config.kv_lora_rank, config.v_head_dim
    shape = [(FLOAT, ("B", "S", heads, rank))]
    (q,) = emit.operator(HEAD_MATMUL, f"{prefix}.q_absorb", {"x": q_nope, "w": key_half}, shape)
    q = _joined(forward, f"{prefix}.q_concat", q, q_rope)
    k = _joined(forward, f"{prefix}.k_concat", latent, k_rope)
    attended = _attend(forward, index, config, q, k)
    inputs, shape = {"x": attended.y, "w": value_half}, [(FLOAT, ("B", "S", heads, value))]
    (y,) = emit.operator(HEAD_LINEAR, f"{prefix}.v_expand", inputs, shape)
    width = heads * value
    merged = reshape(emit, f"{prefix}.merge_heads", y, [0, 0, width], ("B", "S", width))
    return Attended(y=linear(emit, f"{prefix}.o_proj", merged, bias=config.bias), caches=attended.caches)


def _query(forward: Forward, prefix: str, config: MlaConfig, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Queries as heads: [B,S,H,n], and [B,S,H,r] to be rotated."""
    emit, heads, nope, size = forward.emit, config.num_heads, config.qk_nope_head_dim, config.qk_head_dim
    if config.q_lora_rank is None:
        q = linear(emit, f"{prefix}.q_proj", x)
    else:
        q = linear(emit, f"{prefix}.q_a_proj", x, bias=config.bias)
        q = rms_norm(forward, f"{prefix}.q_a_layernorm", q, epsilon=config.norm_eps)
        q = linear(emit, f"{prefix}.q_b_proj", q)
    q = reshape(emit, f"{prefix}.q_heads", q, [0, 0, heads, size], ("B", "S", heads, size))
    return cut(emit, f"{prefix}.q_nope", q, 0, nope), cut(emit, f"{prefix}.q_rope", q, nope, size)


def _latent(forward: Forward, prefix: str, config: MlaConfig, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The latent [B,S,1,R] of each token, and the key [B,S,1,r] that all heads share, to be rotated."""
    emit, rank, size = forward.emit, config.kv_lora_rank, config.latent_dim
    both = linear(emit, f"{prefix}.kv_a_proj_with_mqa", x, bias=config.bias)
    both = reshape(emit, f"{prefix}.kv_head", both, [0, 0, 1, size], ("B", "S", 1, size))
    latent = cut(emit, f"{prefix}.kv_latent", both, 0, rank)
    latent = rms_norm(forward, f"{prefix}.kv_a_layernorm", latent, epsilon=config.norm_eps)
    return latent, cut(emit, f"{prefix}.k_rope", both, rank, size)


def _rope(
    forward: Forward, name: str, config: MlaConfig, q: ir.Value, k: ir.Value
) -> tuple[ir.Value, ir.Value]:
    spec = DYNAMIC_ROPE.spec_from_config(config, forward.model.rope, forward.attention_factor)
    inputs = {"q": q, "k": k, "inv_freq": forward.inv_freq, "past_len": forward.past_len}
    outputs = [(FLOAT, sizes(q)), (FLOAT, sizes(k))]
    q, k = forward.emit.operator(DYNAMIC_ROPE, name, inputs, outputs, spec.attributes())
    return q, k


def _absorbed(forward: Forward, name: str, config: MlaConfig) -> tuple[ir.Value, ir.Value]:
    """The two halves of every head's up-projection: keys [H,n,R] and values [H,dv,R]; views, no copies."""
    nope, both = config.qk_nope_head_dim, config.qk_nope_head_dim + config.v_head_dim
    emit, by_head = forward.emit, [config.num_heads, both, config.kv_lora_rank]
    weight = reshape(emit, f"{name}.heads", emit.weight(f"{name}.weight"), by_head, tuple(by_head))
    keys = cut(emit, f"{name}.key", weight, 0, nope, axis=1)
    return keys, cut(emit, f"{name}.value", weight, nope, both, axis=1)


def _joined(forward: Forward, name: str, first: ir.Value, second: ir.Value) -> ir.Value:
    *leading, size = sizes(first)
    width = sum(int(part) for part in (size, sizes(second)[-1]))
    shape = [(FLOAT, (*leading, width))]
    return forward.emit.node("Concat", name, [first, second], shape, {"axis": -1})[0]


def _attend(forward: Forward, index: int, config: MlaConfig, q: ir.Value, k: ir.Value) -> Attended:
    """Attention of q [B,S,H,R+r] over latents; y [B,S,H,R]."""
    spec = HLA_ATTENTION.spec_from_config(config, forward.capacity)
    shape = ("B", 1, forward.capacity, config.latent_dim)
    cache = forward.emit.input(f"latent_cache.{index}", FLOAT, shape)
    lengths = {"past_len": forward.past_len, "seq_len": forward.seq_len}
    y, cache_out = forward.emit.operator(
        HLA_ATTENTION,
        f"model.layers.{index}.self_attn.attention",
        {"q": q, "k": k, "key_cache": cache, **lengths},
        [(FLOAT, ("B", "S", config.num_heads, config.kv_lora_rank)), (FLOAT, shape)],
        spec.attributes(),
    )
    return Attended(y=y, caches={f"latent_cache_out.{index}": cache_out})
