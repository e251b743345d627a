"""A residual sum and the norm that reads it as one node of ONNX Runtime's."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.graph.edit import FLOAT, Emitter, dims_of, replace_value

_RANK = 3
_LAST_AXIS = (-1, _RANK - 1)


class FuseNormsPass(ir.passes.InPlacePass):
    """Add and RMSNormalization become SkipSimplifiedLayerNormalization, whose fourth output is the sum.

    Only in FP32, and only of two values [B,S,D] of one shape: the operator knows no other.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The new node stands where the sum was, for that has other readers."""
        modified = False
        for norm in list(model.graph):
            add = _sum_before(norm)
            if add is not None:
                _fuse(add, norm)
                modified = True
        return ir.passes.PassResult(model, modified)


def _sum_before(norm: ir.Node) -> ir.Node | None:
    """The sum that a norm of the last axis reads, where both are what the operator computes."""
    if norm.op_type != "RMSNormalization" or norm.domain != "" or None in norm.inputs:
        return None
    value, gamma = norm.inputs
    axis = norm.attributes.get("axis")
    add = None if value is None else value.producer()
    if add is None or add.op_type != "Add" or add.domain != "" or add.outputs[0].is_graph_output():
        return None
    if gamma is None or gamma.const_value is None or (axis is not None and axis.as_int() not in _LAST_AXIS):
        return None
    terms = [term for term in add.inputs if term is not None]
    values = [*terms, gamma, *add.outputs, *norm.outputs]
    if any(item.dtype != FLOAT or item.shape is None for item in values):
        return None
    shapes = {tuple(item.shape) for item in (*terms, *add.outputs) if item.shape is not None}
    return add if len(shapes) == 1 and len(shapes.pop()) == _RANK else None


def _fuse(add: ir.Node, norm: ir.Node) -> None:
    total, dims = add.outputs[0], dims_of(add.outputs[0])
    emit = Emitter(add, str(norm.name).rpartition("/")[0] or str(norm.name))
    name = "SkipSimplifiedLayerNormalization"
    attributes = {"epsilon": norm.attributes["epsilon"].as_float()}
    sum_dims = dims if len(total.uses()) > 1 else None
    outputs = [dims, None, None, sum_dims]
    inputs = [*add.inputs, norm.inputs[1]]
    normed, _, _, summed = emit.contrib_node(name, name, inputs, outputs, attributes)
    graph = norm.graph
    assert graph is not None
    replace_value(norm.outputs[0], normed)
    graph.remove(norm, safe=True)
    total.replace_all_uses_with(summed)
    graph.remove(add, safe=True)
