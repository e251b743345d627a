"""Give a graph with a KV cache another capacity."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.errors import ExportError
from r1trt.graph.edit import dims_of
from r1trt.lowerings.bodies import set_bodies
from r1trt.ops.hla_attention import HLA_ATTENTION

_CACHES = tuple(HLA_ATTENTION.inputs.index(name) for name in ("key_cache", "value_cache"))
_CAPACITY_AXIS = 2


def model_with_capacity(model: ir.Model, capacity: int) -> ir.Model:
    """Copy a graph with caches [B,Hkv,capacity,d].

    RoPE frequencies that an export froze at its own length (`dynamic`, `longrope`) stay as they are.

    Args:
        model: Exported graph.
        capacity: Tokens that the cache holds.

    Raises:
        ExportError: The capacity is not positive, or the graph has no cache.
    """
    if capacity < 1:
        raise ExportError("A KV cache needs room for a token.", found=capacity, expected="at least 1")
    copy = model.clone()
    nodes = [node for node in copy.graph if node.op_type == HLA_ATTENTION.name]
    caches = [cache for node in nodes for index in _CACHES if (cache := node.inputs[index]) is not None]
    if not caches:
        raise ExportError("The graph has no KV cache to resize.", where=copy.graph.name)
    for value in [*caches, *(output for node in nodes for output in node.outputs[1:])]:
        dims = list(dims_of(value))
        dims[_CAPACITY_AXIS] = capacity
        value.shape = ir.Shape(dims)
    set_bodies(copy, "onnxruntime")
    return copy
