"""Give a graph with a KV cache another capacity."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.errors import ExportError
from r1trt.graph.edit import dims_of
from r1trt.ops.registry import operator_of


class SetCapacityPass(ir.passes.InPlacePass):
    """Caches become [B,Hkv,capacity,d]; the operators' bodies have to be set again.

    RoPE frequencies that an export froze at its own length (`dynamic`, `longrope`) stay as they are.

    Args:
        capacity: Tokens that the cache holds.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        if capacity < 1:
            raise ExportError("A KV cache needs room for a token.", found=capacity, expected="at least 1")
        self._capacity = capacity

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raises ExportError where the graph has no cache."""
        operators = [(node, operator_of(node)) for node in model.graph]
        caches = [found for node, operator in operators if operator for found in operator.cache_values(node)]
        if not caches:
            raise ExportError("The graph has no KV cache to resize.", where=model.graph.name)
        for cache, *values in caches:
            for value in values:
                dims = list(dims_of(value))
                dims[cache.capacity_axis] = self._capacity
                value.shape = ir.Shape(dims)
        return ir.passes.PassResult(model, True)
