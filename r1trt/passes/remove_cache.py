"""Turn an exported graph into a scoring graph: no KV cache, the logits of whole prompts."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.errors import ExportError
from r1trt.graph.edit import register
from r1trt.lowerings.bodies import set_bodies
from r1trt.ops.hla_attention import HLA_ATTENTION

_CACHES = tuple(HLA_ATTENTION.inputs.index(name) for name in ("key_cache", "value_cache"))


def model_without_cache(model: ir.Model) -> ir.Model:
    """Copy a graph without its caches; nothing lies in front of a call's tokens, so `past_len` is 0.

    Args:
        model: Exported graph.

    Raises:
        ExportError: The graph lacks one of its interface's inputs.
    """
    copy = model.clone()
    graph = copy.graph
    inputs = {str(value.name): value for value in graph.inputs}
    missing = [name for name in ("past_len", "seq_len") if name not in inputs]
    if missing:
        raise ExportError("The graph lacks inputs.", where=graph.name, found=sorted(inputs), expected=missing)
    for node in [node for node in graph if node.op_type == HLA_ATTENTION.name]:
        for value in (*node.outputs[1:], *(node.inputs[index] for index in _CACHES)):
            for side in (graph.inputs, graph.outputs):
                if value is not None and value in side:
                    side.remove(value)
        for index in _CACHES:
            node.replace_input_with(index, None)
        node.resize_outputs(1)
    _replace_past_len(graph, inputs["past_len"], inputs["seq_len"])
    set_bodies(copy, "onnxruntime")
    return copy


def _replace_past_len(graph: ir.Graph, past_len: ir.Value, seq_len: ir.Value) -> None:
    # 0 * seq_len has the batch's shape without an operator that builders treat as data-dependent.
    zero = register(graph, ir.tensor([0], dtype=ir.DataType.INT64, name="past_len/zero"))
    result = ir.Value(name="past_len/zeros", type=ir.TensorType(ir.DataType.INT64), shape=past_len.shape)
    node = ir.node("Mul", [seq_len, zero], outputs=[result], name="past_len")
    past_len.replace_all_uses_with(result)
    graph.insert_before(graph[0], node)
    graph.inputs.remove(past_len)
