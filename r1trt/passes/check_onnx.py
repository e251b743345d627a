"""ONNX's own checker with full shape inference, on a graph whose large weights stay unread."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from r1trt.errors import PlanError

_INLINE_BYTES = 1024


class CheckOnnxPass(ir.passes.InPlacePass):
    """Refuse what ONNX's checker, or strict shape inference, refuses; changes nothing."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raises PlanError with the checker's own words."""
        try:
            onnx.checker.check_model(proto_without_weights(model), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise PlanError("The typed graph is not valid ONNX.", found=error) from error
        return ir.passes.PassResult(model, False)


def proto_without_weights(model: ir.Model) -> onnx.ModelProto:
    """The graph as protobuf with its large weights declared as inputs: what inference needs, no bytes."""
    light = model.clone()
    for name, value in list(light.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and (isinstance(tensor, ir.ExternalTensor) or tensor.nbytes >= _INLINE_BYTES):
            del light.graph.initializers[name]
            value.const_value = None
            if not value.is_graph_input():
                light.graph.inputs.append(value)
    return ir.to_proto(light)
