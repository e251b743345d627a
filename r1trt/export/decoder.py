"""A decoder's graph, in the order of the forward pass; what a layer is, its configuration says.

Legend: B batch, S tokens of this call, D hidden size, V vocabulary. A new kind of attention or MLP is a file
of its own, and a case here.
"""

from __future__ import annotations

import onnx_ir as ir

from r1trt.config import DenseConfig, GqaConfig, LayerConfig, MlaConfig, ModelConfig, MoeConfig
from r1trt.export.attention import gqa_attention
from r1trt.export.forward import INT64, Attended, Forward, forward_from_config, residual, rms_norm
from r1trt.export.graph import GraphEmitter
from r1trt.export.head import embedding, head, last_token
from r1trt.export.mla import mla_attention
from r1trt.export.mlp import dense_mlp
from r1trt.export.moe import moe_mlp
from r1trt.graph.interface import LOGITS


def emit_decoder(
    emit: GraphEmitter, model: ModelConfig, capacity: int, *, last_token_logits: bool = False
) -> None:
    """Emit a whole graph: inputs, layers, logits and cache outputs.

    Args:
        emit: An empty graph.
        model: What to emit.
        capacity: Rows of the KV cache, in tokens.
        last_token_logits: Compute the logits of each sequence's last real token only, [B,V].
    """
    input_ids = emit.input("input_ids", INT64, ("B", "S"))
    forward = forward_from_config(emit, model, capacity)
    x = embedding(forward, input_ids)
    caches: dict[str, ir.Value] = {}
    for index, layer in enumerate(model.layers):
        attended = _layer(forward, index, layer, x)
        x = attended.y
        caches.update(attended.caches)
    x = last_token(forward, x) if last_token_logits else x
    emit.output(head(forward, x), LOGITS)
    for name, value in caches.items():
        emit.output(value, name)


def _layer(forward: Forward, index: int, layer: LayerConfig, x: ir.Value) -> Attended:
    prefix = f"model.layers.{index}"
    attended = _attention(forward, index, layer, rms_norm(forward, f"{prefix}.input_layernorm", x))
    x = residual(forward.emit, f"{prefix}.attn_residual", x, attended.y)
    y = _mlp(forward, index, layer, rms_norm(forward, f"{prefix}.post_attention_layernorm", x))
    x = residual(forward.emit, f"{prefix}.mlp_residual", x, y)
    return Attended(y=x, caches=attended.caches)


def _attention(forward: Forward, index: int, layer: LayerConfig, x: ir.Value) -> Attended:
    match layer.attention:
        case GqaConfig() as config:
            return gqa_attention(forward, index, config, x)
        case MlaConfig() as config:
            return mla_attention(forward, index, config, x)


def _mlp(forward: Forward, index: int, layer: LayerConfig, x: ir.Value) -> ir.Value:
    match layer.mlp:
        case DenseConfig() as config:
            return dense_mlp(forward, index, config, x)
        case MoeConfig() as config:
            return moe_mlp(forward, index, config, x)
