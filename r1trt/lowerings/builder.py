"""Model-local functions from Python bodies: declared inputs and attributes, unique names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder, build_function
from onnxscript._internal.builder import OpBuilder

from r1trt.ops.operator import DOMAIN, OPSET, AttributeValue, Operator

# A body gets the op builder and one value per declared input; an absent optional input is simply not used.
Body = Callable[..., "ir.Value | Sequence[ir.Value]"]

FLOAT = ir.DataType.FLOAT
BOOL = ir.DataType.BOOL
INT64 = ir.DataType.INT64


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """A backend's bodies.

    Attributes:
        bodies: What makes the body of a spec, by the operator's name.
        computes: Whether the bodies take the types of a spec.
    """

    bodies: Mapping[str, Callable[[Any], Body]]
    computes: Callable[[Any], bool]


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


def operator_function(operator: Operator[Any], body: Body, overload: str = "") -> ir.Function:
    """Make an operator's body: the function declares all of the operator's inputs and attributes."""
    return function_from_body(operator.name, operator.inputs, body, operator.attributes, overload=overload)


def constant(op: OpBuilder, array: np.ndarray[Any, Any]) -> ir.Value:
    """A Constant node that holds `array`."""
    value: ir.Value = op.Constant(value=ir.tensor(array))
    return value


def dim(op: OpBuilder, value: ir.Value, axis: int) -> ir.Value:
    """Size of one axis, int64 [1]."""
    size: ir.Value = op.Shape(value, start=axis, end=axis + 1)
    return size


def arange(op: OpBuilder, size: ir.Value) -> ir.Value:
    """0, 1, ... size - 1 for an int64 [1] size; int64 [size]."""
    numbers: ir.Value = op.Range(0, op.Squeeze(size), 1)
    return numbers


def dims(op: OpBuilder, *sizes: ir.Value | int) -> ir.Value:
    """A shape for Reshape or Expand from numbers and int64 [1] values."""
    parts = [size if isinstance(size, ir.Value) else op.Constant(value_ints=[size]) for size in sizes]
    shape: ir.Value = op.Concat(*parts, axis=0)
    return shape


def to_float(op: OpBuilder, value: ir.Value) -> ir.Value:
    """Cast to FLOAT."""
    cast: ir.Value = op.Cast(value, to=FLOAT)
    return cast


def subgraph(
    op: OpBuilder, name: str, body: Body, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]
) -> ir.Graph:
    """A body for If or Loop; constants are registered in the enclosing function."""
    builder: GraphBuilder = op.builder
    return builder.subgraph(body, inputs, outputs, name=name)
