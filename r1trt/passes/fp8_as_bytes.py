"""FP8 weights of experts as bytes: ONNX Runtime takes no rows out of FP8 tensors, but out of UINT8 ones."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.graph.quantize import WeightTensor
from r1trt.ops.dynamic_moe import DYNAMIC_MOE

FP8, UINT8 = ir.DataType.FLOAT8E4M3FN, ir.DataType.UINT8


class Fp8AsBytesPass(ir.passes.InPlacePass):
    """Weights keep their names and their bytes; the experts' nodes see them as UINT8."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Needs typed experts' nodes, their weights as initializers."""
        weights = [
            value
            for node in model.graph
            if node.op_type == DYNAMIC_MOE.name and node.domain == DYNAMIC_MOE.domain
            for value in node.inputs
            if value is not None and value.dtype == FP8 and value.const_value is not None
        ]
        for value in weights:
            assert value.const_value is not None
            value.const_value = bytes_of(value.const_value)
            value.type = ir.TensorType(UINT8)
        return ir.passes.PassResult(model, bool(weights))


def bytes_of(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The bytes of an FP8 tensor; a tensor in a file is not read, one that is computed is not computed."""
    if isinstance(tensor, WeightTensor):
        return tensor.as_bytes()
    if isinstance(tensor, ir.ExternalTensor):
        return ir.ExternalTensor(
            tensor.location,
            tensor.offset,
            tensor.length,
            UINT8,
            shape=tensor.shape,
            name=str(tensor.name),
            base_dir=tensor.base_dir,
        )
    return ir.Tensor(tensor.numpy().view(UINT8.numpy()), dtype=UINT8, name=tensor.name)
