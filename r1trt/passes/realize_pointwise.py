"""R1SwiGLU and the residual Add as plain nodes in the plan's type."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.graph.edit import (
    Emitter,
    cast_input,
    data_type,
    dims_of,
    planned_nodes,
    required,
    retype_outputs,
)
from r1trt.precision.plan import LayerPrecision, PrecisionPlan


class RealizePointwisePass(ir.passes.InPlacePass):
    """silu(gate) * up by Sigmoid and two Mul, which builders fuse with the quantization behind; x + y."""

    def __init__(self, plan: PrecisionPlan) -> None:
        self._plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every SwiGLU and retype every residual sum that the plan names."""
        modified = False
        for node, layer in planned_nodes(model, self._plan, "R1SwiGLU", "Add"):
            if node.op_type == "Add":
                _retype_sum(node, layer)
            else:
                _realize_swiglu(node, layer)
            modified = True
        return ir.passes.PassResult(model, modified)


def _realize_swiglu(node: ir.Node, layer: LayerPrecision) -> None:
    emit = Emitter(node, str(node.name))
    act, dims = data_type(layer.input), dims_of(node.outputs[0])
    gate = emit.cast(required(node, 0), act, "CastGate")
    up = emit.cast(required(node, 1), act, "CastUp")
    sigmoid = emit.node("Sigmoid", "Sigmoid", [gate], act, dims)
    silu = emit.node("Mul", "Silu", [gate, sigmoid], act, dims)
    y = emit.node("Mul", "Mul", [silu, up], act, dims)
    emit.finish(node, emit.cast(y, data_type(layer.output), "CastResult"))


def _retype_sum(node: ir.Node, layer: LayerPrecision) -> None:
    # The sum is made in the plan's output type: a residual stream in FP32 has to be added in FP32.
    emit, act = Emitter(node, str(node.name)), data_type(layer.output)
    for index in (0, 1):
        cast_input(emit, node, index, data_type(layer.input))
        value = required(node, index)
        node.replace_input_with(index, emit.cast(value, act, f"CastTerm_{index}"))
    retype_outputs(node, str(node.name), act)
