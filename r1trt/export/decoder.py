"""The one decoder definition of all families: Llama, Qwen2 and R1-ASA differ in their configuration alone.

Legend: B batch, S tokens of this call, C cache capacity, H query heads, Hkv key/value heads, d head size,
D hidden size, V vocabulary. Node names are the keys of precision plans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from r1trt.config import ModelConfig
from r1trt.export import functions
from r1trt.export.graph import Dims, GraphEmitter, dims
from r1trt.export.moe import moe_layer
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE
from r1trt.ops.hla_attention import HLA_ATTENTION, INTER_BLOCKS
from r1trt.ops.operator import DOMAIN
from r1trt.rope import rope_frequencies

FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64


@dataclass(frozen=True, kw_only=True)
class CallInputs:
    """The graph inputs that every layer reads: `seq_len` [B], `past_len` [B], `inv_freq` [r/2]."""

    seq_len: ir.Value
    past_len: ir.Value
    inv_freq: ir.Value
    attention_factor: float


class DecoderEmitter:
    """Emits one decoder; `capacity` is the KV cache's C in tokens."""

    def __init__(self, emitter: GraphEmitter, config: ModelConfig, capacity: int) -> None:
        self.emit = emitter
        self.config = config
        self.capacity = capacity
        self._cache_outputs: list[tuple[str, ir.Value]] = []

    def decoder(self, *, last_token_logits: bool = False) -> None:
        """Emit the whole graph: inputs, layers, logits and cache outputs."""
        input_ids = self.emit.input("input_ids", INT64, dims("B", "S"))
        call = self._call_inputs()
        hidden = dims("B", "S", self.config.hidden_size)
        embedding = self.emit.weight("model.embed_tokens.weight")
        x = self.emit.call(functions.EMBEDDING, "model.embed_tokens", [input_ids, embedding], hidden)
        for layer in range(self.config.num_layers):
            x = self._layer(layer, x, call)
        logits = self._head(self._last_token(x, call.seq_len) if last_token_logits else x, last_token_logits)
        self.emit.output(logits, "logits")
        for name, value in self._cache_outputs:
            self.emit.output(value, name)

    def _call_inputs(self) -> CallInputs:
        inv_freq, attention_factor = rope_frequencies(
            self.config.rope, self.capacity, max_position_embeddings=self.config.max_position_embeddings
        )
        return CallInputs(
            seq_len=self.emit.input("seq_len", INT64, dims("B")),
            past_len=self.emit.input("past_len", INT64, dims("B")),
            inv_freq=self.emit.constant("rope.inv_freq", np.asarray(inv_freq, np.float32)),
            attention_factor=attention_factor,
        )

    def _layer(self, index: int, x: ir.Value, call: CallInputs) -> ir.Value:
        prefix = f"model.layers.{index}"
        attended = self._attention(index, self._norm(f"{prefix}.input_layernorm", x), call)
        x = self._residual(f"{prefix}.attn_residual", x, attended)
        h = self._norm(f"{prefix}.post_attention_layernorm", x)
        if self.config.is_moe_layer(index):
            y = moe_layer(self.emit, self.config, f"{prefix}.mlp", h, call.seq_len)
        else:
            y = self._mlp(f"{prefix}.mlp", h)
        return self._residual(f"{prefix}.mlp_residual", x, y)

    def _attention(self, index: int, x: ir.Value, call: CallInputs) -> ir.Value:
        config, prefix = self.config, f"model.layers.{index}.self_attn"
        q = self._heads(f"{prefix}.q", x, config.num_heads)
        k = self._heads(f"{prefix}.k", x, config.num_kv_heads)
        v = self._heads(f"{prefix}.v", x, config.num_kv_heads)
        q, k = self._rope(f"{prefix}.rope", q, k, call)
        lam = self._lambda_gate(f"{prefix}.lam_gate", x) if config.hla.gate else None
        y = self._attend(index, [q, k, v], lam, call)
        width = config.num_heads * config.head_dim
        merged = self._reshape(f"{prefix}.merge_heads", y, [0, 0, width], dims("B", "S", width))
        return self._linear(f"{prefix}.o_proj", merged, config.hidden_size, config.o_bias)

    def _heads(self, name: str, x: ir.Value, heads: int) -> ir.Value:
        size = self.config.head_dim
        y = self._linear(f"{name}_proj", x, heads * size, self.config.qkv_bias)
        return self._reshape(f"{name}_heads", y, [0, 0, heads, size], dims("B", "S", heads, size))

    def _rope(self, name: str, q: ir.Value, k: ir.Value, call: CallInputs) -> tuple[ir.Value, ir.Value]:
        rope = self.config.rope
        attributes = {
            "interleaved": int(rope.interleaved),
            "attention_factor": call.attention_factor,
            "temperature_alpha": rope.temperature_alpha,
            "original_max_position": rope.original_max_position,
        }
        heads = (self.config.num_heads, self.config.num_kv_heads)
        outputs = [(FLOAT, dims("B", "S", count, self.config.head_dim)) for count in heads]
        inputs = [q, k, call.inv_freq, call.past_len]
        q, k = self.emit.node(DYNAMIC_ROPE.name, name, inputs, outputs, attributes, domain=DOMAIN)
        return q, k

    def _attend(self, index: int, qkv: list[ir.Value], lam: ir.Value | None, call: CallInputs) -> ir.Value:
        config = self.config
        cache = dims("B", config.num_kv_heads, self.capacity, config.head_dim)
        caches = [self.emit.input(f"{kind}_cache.{index}", FLOAT, cache) for kind in ("key", "value")]
        y, key_out, value_out = self.emit.node(
            HLA_ATTENTION.name,
            f"model.layers.{index}.self_attn.attention",
            [*qkv, *caches, lam, call.past_len, call.seq_len],
            [(FLOAT, dims("B", "S", config.num_heads, config.head_dim)), (FLOAT, cache), (FLOAT, cache)],
            {
                "scale": config.head_dim**-0.5,
                "block_size": config.hla.block_size,
                "inter_block": INTER_BLOCKS.index(config.hla.inter_block),
                "lam_skip": config.hla.lam_skip,
                "v_head_dim": config.head_dim,
            },
            domain=DOMAIN,
        )
        self._cache_outputs += [
            (f"key_cache_out.{index}", key_out),
            (f"value_cache_out.{index}", value_out),
        ]
        return y

    def _lambda_gate(self, name: str, x: ir.Value) -> ir.Value:
        weights = [self.emit.weight(f"{name}.{part}") for part in ("weight", "bias")]
        return self.emit.call(
            functions.LAMBDA_GATE, name, [x, *weights], dims("B", "S", self.config.num_heads)
        )

    def _mlp(self, prefix: str, x: ir.Value) -> ir.Value:
        width, bias = self.config.intermediate_size, self.config.mlp_bias
        gate = self._linear(f"{prefix}.gate_proj", x, width, bias)
        up = self._linear(f"{prefix}.up_proj", x, width, bias)
        activated = self.emit.call(functions.SWIGLU, f"{prefix}.act", [gate, up], dims("B", "S", width))
        return self._linear(f"{prefix}.down_proj", activated, self.config.hidden_size, bias)

    def _linear(self, name: str, x: ir.Value, width: int, bias: bool) -> ir.Value:
        weight = self.emit.weight(f"{name}.weight")
        if bias:
            inputs = [x, weight, self.emit.weight(f"{name}.bias")]
            return self.emit.call(functions.LINEAR_BIAS, name, inputs, dims("B", "S", width))
        return self.emit.call(functions.LINEAR, name, [x, weight], dims("B", "S", width))

    def _norm(self, name: str, x: ir.Value, last_token: bool = False) -> ir.Value:
        attributes = {"epsilon": self.config.rms_norm_eps}
        hidden = self.config.hidden_size
        shape = dims("B", hidden) if last_token else dims("B", "S", hidden)
        weight = self.emit.weight(f"{name}.weight")
        return self.emit.call(functions.RMS_NORM, name, [x, weight], shape, attributes)

    def _residual(self, name: str, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.emit.node("Add", name, [x, y], [(FLOAT, dims("B", "S", self.config.hidden_size))])[0]

    def _reshape(self, name: str, x: ir.Value, to: list[int], shape: Dims) -> ir.Value:
        label = "shape." + "_".join(map(str, to))
        target = self.emit.constant(label, np.array(to, np.int64))
        return self.emit.node("Reshape", name, [x, target], [(FLOAT, shape)])[0]

    def _last_token(self, x: ir.Value, seq_len: ir.Value) -> ir.Value:
        """The row of each sequence's last real token, [B,D]; row 0 where a sequence has none."""
        zero, one = (self.emit.constant(f"int64.{n}", np.array(n, np.int64)) for n in (0, 1))
        axis = self.emit.constant("axes.1", np.array([1], np.int64))
        (previous,) = self.emit.node("Sub", "last_token.previous", [seq_len, one], [(INT64, dims("B"))])
        (index,) = self.emit.node("Max", "last_token.index", [previous, zero], [(INT64, dims("B"))])
        (column,) = self.emit.node("Unsqueeze", "last_token.column", [index, axis], [(INT64, dims("B", 1))])
        row = [(FLOAT, dims("B", self.config.hidden_size))]
        return self.emit.node("GatherND", "last_token.row", [x, column], row, {"batch_dims": 1})[0]

    def _head(self, x: ir.Value, last_token_logits: bool) -> ir.Value:
        tied = self.config.tie_word_embeddings
        weight = self.emit.weight("model.embed_tokens.weight" if tied else "lm_head.weight")
        vocab = self.config.vocab_size
        shape = dims("B", vocab) if last_token_logits else dims("B", "S", vocab)
        return self.emit.call(
            functions.LINEAR, "lm_head", [self._norm("model.norm", x, last_token_logits), weight], shape
        )
