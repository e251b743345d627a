"""Model-local functions from Python bodies: declared inputs and attributes, unique names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
from onnxscript import build_function
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.domain import DOMAIN, MICROSOFT, OPSET

AttributeValue = int | float
# A body gets the op builder and one value per declared input; an absent optional input is simply not used.
Body = Callable[..., "ir.Value | Sequence[ir.Value]"]


def _declared(attributes: Mapping[str, AttributeValue]) -> list[ir.Attr]:
    kinds = {float: ir.AttributeType.FLOAT, int: ir.AttributeType.INT}
    return [ir.Attr(name, kinds[type(default)], None) for name, default in attributes.items()]


def function_from_body(
    name: str,
    inputs: Sequence[str],
    body: Body,
    attributes: Mapping[str, AttributeValue] | None = None,
    *,
    overload: str = "",
) -> ir.Function:
    """Make the function `r1trt::name`, or another body of that name under an `overload`.

    Nodes and values are prefixed with the function's own name: parsers inline functions without renaming, and
    two bodies' "Mul_3" would clash. Types and shapes are left out: what the builder guesses inside a body is
    wrong wherever a size is dynamic.
    """
    function = build_function(
        body,
        [ir.Value(name=item) for item in inputs],
        domain=DOMAIN,
        name=name,
        attributes=_declared(attributes or {}),
        opset_imports={"": OPSET},
    )
    function.overload = overload
    for node in function.all_nodes():
        if node.domain == MICROSOFT:
            function.opset_imports.setdefault(MICROSOFT, 1)
    _prefix_names(function, function_label(function))
    return function


def function_label(function: ir.Function) -> str:
    """A function's name in messages and in the names of its nodes: `R1DynamicMoE`, `R1DynamicMoE.2`."""
    return f"{function.name}.{function.overload}" if function.overload else function.name


def _prefix_names(function: ir.Function, label: str) -> None:
    for index, node in enumerate(function.all_nodes()):
        node.name = f"{label}/{node.op_type}_{index}"
        node.metadata_props.clear()
        for output_index, output in enumerate(node.outputs):
            output.shape = output.type = None
            output.name = f"{label}_{index}_{output_index}_{node.op_type}"
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                for value in attribute.as_graph().inputs:
                    value.name = f"{label}_{value.name}"


def to_float(op: OpBuilder, value: ir.Value) -> ir.Value:
    """Cast to FLOAT."""
    cast: ir.Value = op.Cast(value, to=ir.DataType.FLOAT)
    return cast
