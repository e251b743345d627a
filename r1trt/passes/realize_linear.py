"""R1Linear and R1LinearBias as plain nodes: Transpose, MatMul, Add, with Q/DQ where the plan says FP8."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from r1trt.graph.edit import Emitter, data_type, dims_of, planned_nodes, required
from r1trt.graph.weights import matmul_weight, typed_weight
from r1trt.precision.plan import LayerPrecision, PrecisionPlan

FP8 = ir.DataType.FLOAT8E4M3FN


class RealizeLinearPass(ir.passes.InPlacePass):
    """y = x @ w.T (+ b): the product has the plan's output type, and so has its input before Q/DQ."""

    def __init__(self, plan: PrecisionPlan) -> None:
        self._plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every linear that the plan names."""
        modified = False
        for node, layer in planned_nodes(model, self._plan, "R1Linear", "R1LinearBias"):
            _realize(node, layer)
            modified = True
        return ir.passes.PassResult(model, modified)


def _realize(node: ir.Node, layer: LayerPrecision) -> None:
    emit = Emitter(node, str(node.name))
    act = data_type(layer.output if layer.quantizes_input else layer.input)
    x = emit.cast(required(node, 0), act, "CastInput")
    if layer.input_scale is not None:
        x = quantize_dequantize(emit, x, layer.input_scale)
    weight = matmul_weight(emit, required(node, 1), data_type(layer.weight), act, layer.weight_scale)
    y = emit.node("MatMul", "MatMul", [x, weight], act, dims_of(node.outputs[0]))
    if node.op_type == "R1LinearBias":
        bias = typed_weight(emit.graph, required(node, 2), act)
        y = emit.node("Add", "AddBias", [y, bias], act, dims_of(y))
    emit.finish(node, emit.cast(y, data_type(layer.output), "CastProduct"))


def quantize_dequantize(emit: Emitter, x: ir.Value, input_scale: float) -> ir.Value:
    """Round x to the FP8 grid of a static scale: builders turn it into an FP8 operand of the next product.

    The scale is FP32 and the division too (`precision`); a BF16 scale would be off by up to 0.4 %.
    """
    assert x.dtype is not None
    scale = emit.constant("input_scale", np.asarray(input_scale, np.float32))
    attributes = {"precision": int(ir.DataType.FLOAT), "output_dtype": int(FP8)}
    quantized = emit.node("QuantizeLinear", "QuantizeInput", [x, scale], FP8, dims_of(x), attributes)
    back = {"output_dtype": int(x.dtype)}
    return emit.node("DequantizeLinear", "DequantizeInput", [quantized, scale], x.dtype, dims_of(x), back)
