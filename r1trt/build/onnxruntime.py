"""`--arch cpu`: the engine is a graph that ONNX Runtime runs, and its weights.

FP32 gets the sparse bodies, and weights as the CPU wants them. A narrower precision is not faster there: such
a build runs the simulation of what a GPU would compute.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from r1trt.graph.quantize import WeightTensor
from r1trt.graph.weights import weight_source_from_value
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.passes.pipeline import typed_model_from_plan
from r1trt.passes.simulate import simulated_model_from_typed
from r1trt.precision.plan import PrecisionPlan

_TRANSPOSED = [1, 0]


def cpu_model_from_plan(model: ir.Model, plan: PrecisionPlan) -> ir.Model:
    """The graph that ONNX Runtime runs.

    Args:
        model: Exported graph, with the capacity of the build.
        plan: Its plan.
    """
    # An edited plan may lower single layers; ONNX Runtime has CPU kernels for FP32 alone.
    if all(_is_fp32(layer) for layer in plan.layers.values()):
        engine = typed_model_from_plan(model, plan, "onnxruntime")
        pretranspose_weights(engine)
        return engine
    return simulated_model_from_typed(typed_model_from_plan(model, plan, "tensorrt-rtx"))


def _is_fp32(layer: LayerPrecision) -> bool:
    kinds = (layer.input, layer.output, layer.weight, layer.shared_weight)
    return not {"bf16", "fp8_e4m3"}.intersection(kind for kind in kinds if kind is not None)


def pretranspose_weights(model: ir.Model) -> None:
    """Store weights that are only ever transposed the other way round, and drop the Transpose nodes.

    ONNX Runtime would do it at every load, and keep both copies while it does.
    """
    for node in list(model.graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or weight.const_value is None or len(weight.uses()) != 1:
            continue
        perm = node.attributes.get("perm")
        if perm is None or list(perm.as_ints()) != _TRANSPOSED:
            continue
        source = weight_source_from_value(weight)
        dtype = weight.const_value.dtype
        name = f"{weight.name}.transposed"
        stored = WeightTensor(source, dtype, name=name, transposed=True)
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=stored.shape, const_value=stored)
        model.graph.register_initializer(value)
        node.outputs[0].replace_all_uses_with(value)
    RemoveUnusedNodesPass()(model)
