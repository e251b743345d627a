"""Lowerings: a body a backend for each of the three operators, as model-local functions."""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE
from r1trt.ops.hla_attention import HLA_ATTENTION
from r1trt.ops.operator import DOMAIN
from r1trt.ops.registry import OPERATORS

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
            return rope_function(DYNAMIC_ROPE.spec_from_node(node))
        if node.op_type == HLA_ATTENTION.name:
            return attention_function(HLA_ATTENTION.spec_from_node(node))
        return moe_function(DYNAMIC_MOE.spec_from_node(node))
    from r1trt.lowerings import tensorrt_rtx

    if node.op_type == DYNAMIC_ROPE.name:
        return tensorrt_rtx.rope_function(DYNAMIC_ROPE.spec_from_node(node))
    if node.op_type == HLA_ATTENTION.name:
        return tensorrt_rtx.attention_function(HLA_ATTENTION.spec_from_node(node), activation)
    return tensorrt_rtx.moe_function(DYNAMIC_MOE.spec_from_node(node), activation)


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
