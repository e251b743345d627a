"""Lowerings: a body a backend for each of the three operators, as model-local functions."""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from r1trt.lowerings.specs import attention_spec_from_node, moe_spec_from_node, rope_spec_from_node
from r1trt.operators import DOMAIN, DYNAMIC_ROPE, HLA_ATTENTION, OPERATORS

LoweringBackend = Literal["onnxruntime", "tensorrt-rtx"]


def function_for_node(node: ir.Node, backend: LoweringBackend, activation: ir.DataType) -> ir.Function:
    """The body of one operator node.

    Args:
        node: An R1DynamicRoPE, R1HLAAttention or R1DynamicMoE with static sizes on its inputs.
        backend: Whose body: `onnxruntime` computes in FLOAT, `tensorrt-rtx` in `activation`.
        activation: Activation type of the graph.
    """
    if backend == "onnxruntime":
        from r1trt.lowerings.onnxruntime.attention import attention_function
        from r1trt.lowerings.onnxruntime.moe import moe_function
        from r1trt.lowerings.onnxruntime.rope import rope_function

        if node.op_type == DYNAMIC_ROPE.name:
            return rope_function(rope_spec_from_node(node))
        if node.op_type == HLA_ATTENTION.name:
            return attention_function(attention_spec_from_node(node))
        return moe_function(moe_spec_from_node(node))
    from r1trt.lowerings import tensorrt_rtx

    if node.op_type == DYNAMIC_ROPE.name:
        return tensorrt_rtx.rope_function(rope_spec_from_node(node))
    if node.op_type == HLA_ATTENTION.name:
        return tensorrt_rtx.attention_function(attention_spec_from_node(node), activation)
    return tensorrt_rtx.moe_function(moe_spec_from_node(node), activation)


def functions_for(
    model: ir.Model, backend: LoweringBackend, activation: ir.DataType = ir.DataType.FLOAT
) -> list[ir.Function]:
    """One body for each of the three operators that the graph holds.

    All nodes of an operator in a graph come from one decoder definition and differ in their weights alone.
    """
    first: dict[str, ir.Node] = {}
    for node in model.graph:
        if node.domain == DOMAIN and node.op_type in OPERATORS:
            first.setdefault(node.op_type, node)
    return [function_for_node(node, backend, activation) for node in first.values()]
