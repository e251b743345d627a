"""An export as a graph that other quantizers take, and what they made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from r1trt.export.io import ExportedModel
from r1trt.passes.infer_types import InferTypesPass
from r1trt.passes.inline_bodies import InlineBodiesPass
from r1trt.passes.pipeline import run_passes, typing_passes
from r1trt.passes.pretranspose_weights import PretransposeWeightsPass
from r1trt.passes.remove_cache import RemoveCachePass
from r1trt.passes.set_bodies import SetBodiesPass
from r1trt.precision.rules import plan_from_rules


def standard_graph(export: ExportedModel, path: Path) -> Path:
    """Writes a dense model's scoring graph in FP32: standard operators, weights that products read directly.

    Args:
        export: What is written.
        path: Of the graph; its weights are written beside it.
    """
    plan = plan_from_rules(export.model, "cpu", "fp32")
    passes = [
        RemoveCachePass(),
        *typing_passes(plan, {}),
        SetBodiesPass("tensorrt-rtx", "onnxruntime"),
        InlineBodiesPass(),
        InferTypesPass(),
        PretransposeWeightsPass(),
    ]
    model = run_passes(export.model, passes)
    _copy_shared_transposes(model)
    _read_weights(model, export.weight_base)
    onnx.save(ir.to_proto(model), path, save_as_external_data=True, location=f"{path.name}.data")
    return path


def _copy_shared_transposes(model: ir.Model) -> None:
    """Gives a tied head a weight of its own: quantizers leave the transposed embedding alone."""
    for node in list(model.graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or weight.const_value is None:
            continue
        array = np.ascontiguousarray(weight.const_value.numpy().T)
        tensor = ir.tensor(array, name=f"{weight.name}.copy")
        value = ir.Value(
            name=tensor.name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        model.graph.register_initializer(value)
        node.outputs[0].replace_all_uses_with(value)
    RemoveUnusedNodesPass()(model)


def _read_weights(model: ir.Model, weight_base: Path) -> None:
    """Takes weights that lie in the checkpoint as they are into the graph."""
    ir.external_data.set_base_dir(model.graph, weight_base)
    ir.external_data.load_to_model(model)


def quantized_products(proto: onnx.ModelProto) -> set[str]:
    """Names of the products whose second operand went through FP8."""
    made_by = {name: node for node in proto.graph.node for name in node.output}
    return {
        node.name
        for node in proto.graph.node
        if node.op_type == "MatMul"
        and (source := made_by.get(node.input[1])) is not None
        and source.op_type == "DequantizeLinear"
    }
