"""Model-local functions from Python bodies: declared inputs and attributes, unique names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.functions import Body, function_from_body
from r1trt.ops.operator import Operator

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


def operator_function(
    operator: Operator[Any], body: Body, overload: str = "", inputs: Sequence[str] = ()
) -> ir.Function:
    """Make an operator's body: the function declares all of its inputs, or all `inputs` of its nodes."""
    names = inputs or operator.inputs
    return function_from_body(operator.name, names, body, operator.attributes, overload=overload)


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


def as_float(op: OpBuilder, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """A value of the type `dtype` in FLOAT; no node where it has that."""
    widened: ir.Value = value if dtype == FLOAT else op.Cast(value, to=FLOAT)
    return widened


def subgraph(
    op: OpBuilder, name: str, body: Body, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]
) -> ir.Graph:
    """A body for If or Loop; constants are registered in the enclosing function."""
    builder: GraphBuilder = op.builder
    return builder.subgraph(body, inputs, outputs, name=name)
