"""The operators' nodes as TensorRT's ONNX parser must find them to make plugins of them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from r1trt.errors import BuildError
from r1trt.ops.registry import operator_of

INPUT_MASK = "input_mask"


def name_absent_inputs(model: ir.Model) -> bool:
    """Removes empty inputs from the operators' nodes, and says in `input_mask` which inputs are left.

    A TensorRT layer has a plain list of tensors: bit i of the mask stands for input i of the operator.

    Args:
        model: A typed graph whose operators have no body; it is changed.

    Returns:
        Whether the graph was changed.
    """
    nodes = list(_operator_nodes(model))
    for node in nodes:
        present = [(index, value) for index, value in enumerate(node.inputs) if value is not None]
        for position, (_, value) in enumerate(present):
            node.replace_input_with(position, value)
        node.resize_inputs(len(present))
        node.attributes[INPUT_MASK] = ir.AttrInt64(INPUT_MASK, sum(1 << index for index, _ in present))
    return bool(nodes)


def require_plugin_types(model: ir.Model) -> None:
    """Refuses a typed graph whose operators no plugin computes.

    Raises:
        BuildError: A node's activations have a type that its plugin has no kernels for.
    """
    for node in _operator_nodes(model):
        dtype = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
        operator = operator_of(node)
        known = () if operator is None else operator.plugin_types
        if dtype not in known:
            raise BuildError(
                f"The plugin of {node.op_type} does not compute in this type.",
                where=node.name,
                found=None if dtype is None else dtype.name,
                expected=" or ".join(item.name for item in known),
                fix="build with --bf16 or --fp8",
            )


def _operator_nodes(model: ir.Model) -> Iterator[ir.Node]:
    for node in model.graph.all_nodes():
        if operator_of(node) is not None and INPUT_MASK not in node.attributes:
            yield node
