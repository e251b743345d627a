"""What must hold of a typed graph: every value typed, valid ONNX, no form that builders get wrong."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from r1trt.errors import PlanError
from r1trt.ops.operator import DOMAIN

_INLINE_BYTES = 1024
_LISTED = 20
_FLOAT8 = (ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2)


class CheckTypedPass(ir.passes.InPlacePass):
    """Refuse untyped values and traps; changes nothing."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raises PlanError that lists what is wrong."""
        problems = [*_untyped(model.graph), *_traps(model.graph)]
        if problems:
            shown = "\n    ".join(["", *problems[:_LISTED]])
            raise PlanError(f"The typed graph has {len(problems)} faults.", found=shown)
        return ir.passes.PassResult(model, False)


def _untyped(graph: ir.Graph) -> Iterator[str]:
    for value in [
        *graph.inputs,
        *graph.initializers.values(),
        *(out for node in graph for out in node.outputs),
    ]:
        if value.dtype is None:
            yield f"'{value.name}' has no type"
        if value.shape is None:
            yield f"'{value.name}' has no shape"


def _traps(graph: ir.Graph) -> Iterator[str]:
    for node in graph:
        label = f"{node.op_type} '{node.name}'"
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = node.inputs[1]
            if scale is not None and scale.dtype != ir.DataType.FLOAT:
                yield f"{label} has {scale.dtype} scales; they round by up to 0.4 %, use FLOAT"
            if "output_dtype" not in node.attributes:
                yield f"{label} does not say its output type; builders then take the scale's"
            block = node.attributes.get("block_size")
            if block is not None and block.as_int() and _meets_fp8_activations(node):
                yield f"{label} has blocked scales and FP8 activations: TensorRT-RTX 1.7 miscomputes that"
        elif node.domain != DOMAIN and any(
            value is not None and value.dtype in _FLOAT8 for value in node.inputs
        ):
            yield f"{label} consumes FP8; only DequantizeLinear and the operators of {DOMAIN} can"
        if node.op_type == "Attention" and len(node.inputs) > 6 and node.inputs[6] is not None:
            yield f"{label} has nonpad_kv_seqlen, which TensorRT-RTX ignores in silence"


def _meets_fp8_activations(weight: ir.Node) -> bool:
    """Whether a product takes this dequantized weight on one side and a quantized activation on the other."""
    values = list(weight.outputs)
    for node in (user for value in values for user, _ in value.uses()):
        if node.op_type in ("Transpose", "Reshape"):
            values.extend(node.outputs)
            if _meets_fp8_activations(node):
                return True
        elif node.op_type == "MatMul":
            producers = [value.producer() for value in node.inputs if value is not None]
            if any(
                p is not None and p.op_type == "DequantizeLinear" and _is_activation(p) for p in producers
            ):
                return True
    return False


def _is_activation(dequantize: ir.Node) -> bool:
    quantized = dequantize.inputs[0]
    producer = None if quantized is None else quantized.producer()
    return producer is not None and producer.op_type == "QuantizeLinear"


def check_onnx(model: ir.Model) -> None:
    """Run ONNX's checker with full shape inference on the graph; large weights enter as inputs, unread.

    Raises:
        PlanError: The checker, or strict shape inference, refuses the graph.
    """
    try:
        onnx.checker.check_model(proto_without_weights(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise PlanError("The typed graph is not valid ONNX.", found=error) from error


def proto_without_weights(model: ir.Model) -> onnx.ModelProto:
    """The graph as protobuf with its large weights declared as inputs: what inference needs, no bytes."""
    light = model.clone()
    for name, value in list(light.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and (isinstance(tensor, ir.ExternalTensor) or tensor.nbytes >= _INLINE_BYTES):
            del light.graph.initializers[name]
            value.const_value = None
            light.graph.inputs.append(value)
    return ir.to_proto(light)
