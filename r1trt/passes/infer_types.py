"""Types inside inlined bodies, which are written without any, by ONNX's strict inference."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from r1trt.errors import BuildError
from r1trt.passes.check_onnx import proto_without_weights
from r1trt.text import listing


class InferTypesPass(ir.passes.InPlacePass):
    """Every value of the graph gets its element type."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raises BuildError where a type cannot be inferred, so that its roundings are not known."""
        open_values = list(_untyped(model))
        if open_values:
            _take_inferred(model, [output for _, output in open_values])
        untyped = [
            f"'{output.name}' of {node.op_type} '{node.name}'"
            for node, output in _untyped(model)
            if output.uses() or output.is_graph_output()
        ]
        if untyped:
            raise BuildError(
                f"{len(untyped)} values of the inlined graph have no type.",
                found=listing(untyped),
                fix="their roundings are unknown; give the operator bodies forms that ONNX can infer",
            )
        return ir.passes.PassResult(model, bool(open_values))


def _untyped(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Value]]:
    for node in model.graph.all_nodes():
        for output in node.outputs:
            if output.dtype is None:
                yield node, output


def _take_inferred(model: ir.Model, values: list[ir.Value]) -> None:
    """A failure of the inference raises, and never leaves a half-typed graph."""
    try:
        inferred = onnx.shape_inference.infer_shapes(
            proto_without_weights(model), check_type=True, strict_mode=True, data_prop=True
        )
    except onnx.shape_inference.InferenceError as error:
        raise BuildError("Type inference of the inlined graph failed.", found=error) from error
    known = {info.name: info.type.tensor_type.elem_type for info in inferred.graph.value_info}
    for value in values:
        if known.get(str(value.name)):
            value.type = ir.TensorType(ir.DataType(known[str(value.name)]))
