"""The operators' nodes as TensorRT's ONNX parser must find them to make plugins of them, and back.

A TensorRT layer has a plain list of tensors: bit i of a node's `input_mask` stands for input i of the
operator.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from r1trt.errors import BuildError
from r1trt.ops.registry import OPERATORS, operator_of

INPUT_MASK = "input_mask"


class NameAbsentInputsPass(ir.passes.InPlacePass):
    """Remove empty inputs from the operators' nodes, and say in `input_mask` which inputs are left."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Needs a typed graph whose operators have no body."""
        nodes = [node for node in _operator_nodes(model) if INPUT_MASK not in node.attributes]
        for node in nodes:
            present = [(index, value) for index, value in enumerate(node.inputs) if value is not None]
            _set_inputs(node, [value for _, value in present])
            mask = sum(1 << index for index, _ in present)
            node.attributes[INPUT_MASK] = ir.AttrInt64(INPUT_MASK, mask)
        return ir.passes.PassResult(model, bool(nodes))


class RestoreAbsentInputsPass(ir.passes.InPlacePass):
    """Give nodes with an `input_mask` their empty inputs back: bodies know all of the inputs."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Undo NameAbsentInputsPass."""
        nodes = [node for node in _operator_nodes(model) if INPUT_MASK in node.attributes]
        for node in nodes:
            mask, left = node.attributes.pop(INPUT_MASK).as_int(), iter(list(node.inputs))
            count = len(OPERATORS[node.op_type].input_names(node))
            _set_inputs(node, [next(left) if mask >> index & 1 else None for index in range(count)])
        return ir.passes.PassResult(model, bool(nodes))


class CheckPluginTypesPass(ir.passes.InPlacePass):
    """Refuse a typed graph whose operators no plugin computes; changes nothing."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raises BuildError where a plugin has no kernels for a node's activations."""
        for node in _operator_nodes(model):
            operator = OPERATORS[node.op_type]
            dtype, known = operator.dtype(node, operator.inputs[0]), operator.plugin_types
            if dtype not in known:
                raise BuildError(
                    f"The plugin of {node.op_type} does not compute in this type.",
                    where=node.name,
                    found=dtype.name,
                    expected=" or ".join(item.name for item in known),
                    fix="build with --bf16 or --fp8, or give the layer bf16 in the plan",
                )
        return ir.passes.PassResult(model, False)


def _operator_nodes(model: ir.Model) -> Iterator[ir.Node]:
    return (node for node in model.graph.all_nodes() if operator_of(node) is not None)


def _set_inputs(node: ir.Node, inputs: list[ir.Value | None]) -> None:
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)
