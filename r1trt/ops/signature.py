"""An operator's signature, and access to a node's inputs, outputs and attributes by their names in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar

import onnx_ir as ir

from r1trt.errors import ExportError, PlanError
from r1trt.graph.domain import DOMAIN
from r1trt.graph.edit import Emitter
from r1trt.graph.functions import AttributeValue

Choice = TypeVar("Choice")


class Signature:
    """Names of an operator and of its parts, in order.

    Attributes:
        name: Operator type, and the TensorRT plugin's name where there is one.
        domain: ONNX domain.
        inputs: Input names in order.
        optional_inputs: Those of `inputs` that may be absent (an empty name in the node).
        outputs: Output names in order.
        attributes: Attribute names with their defaults; the default's type is the attribute's type.
    """

    name: ClassVar[str]
    domain: ClassVar[str] = DOMAIN
    inputs: ClassVar[tuple[str, ...]]
    optional_inputs: ClassVar[frozenset[str]] = frozenset()
    outputs: ClassVar[tuple[str, ...]]
    attributes: ClassVar[Mapping[str, AttributeValue]] = {}

    def input_names(self, node: ir.Node) -> tuple[str, ...]:
        """Names of a node's inputs in order: `inputs`, and more where an attribute says so."""
        return self.inputs

    def input(self, node: ir.Node, name: str) -> ir.Value | None:
        """The value at the input `name`, or None where it is absent."""
        index = self.input_names(node).index(name)
        return node.inputs[index] if index < len(node.inputs) else None

    def required(self, node: ir.Node, name: str) -> ir.Value:
        """An input that must be there.

        Raises:
            PlanError: It is absent.
        """
        value = self.input(node, name)
        if value is None:
            raise PlanError(
                "A node lacks an input.",
                where=f"{node.op_type} '{node.name}'",
                found=f"no input '{name}'",
                fix="export the graph again",
            )
        return value

    def output(self, node: ir.Node, name: str) -> ir.Value | None:
        """The value at the output `name`, or None where the node has fewer."""
        index = self.outputs.index(name)
        return node.outputs[index] if index < len(node.outputs) else None

    def set_input(self, node: ir.Node, name: str, value: ir.Value | None) -> None:
        """Put a value at the input `name`; optional inputs in front of it stay absent where they are."""
        index = self.input_names(node).index(name)
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, value)

    def cast_input(self, emit: Emitter, node: ir.Node, name: str, dtype: ir.DataType) -> None:
        """Cast one input of a node that stays; an absent input stays absent."""
        value, index = self.input(node, name), self.input_names(node).index(name)
        if value is not None:
            node.replace_input_with(index, emit.cast(value, dtype, f"CastInput_{index}"))

    def dtype(self, node: ir.Node, name: str) -> ir.DataType:
        """Element type of an input that must be there.

        Raises:
            ExportError: The input is absent, or its type is not known.
        """
        value = self.input(node, name)
        if value is None or value.dtype is None:
            raise ExportError(
                f"{self.name} needs a typed input '{name}'.",
                where=f"node '{node.name}'",
                found="no input" if value is None else "no type",
                fix="export the graph again; its values must carry types",
            )
        return value.dtype

    def attribute(self, node: ir.Node, name: str) -> AttributeValue:
        """An attribute's value, or its default. Raises ExportError where it has another type."""
        attribute, default = node.attributes.get(name), self.attributes[name]
        if attribute is None:
            return default
        try:
            return attribute.as_float() if isinstance(default, float) else attribute.as_int()
        except TypeError as error:
            raise self._refused(node, name, attribute.type, type(default).__name__) from error

    def choice(self, node: ir.Node, name: str, choices: Sequence[Choice]) -> Choice:
        """What an attribute's number stands for.

        Raises:
            ExportError: It stands for nothing.
        """
        number = int(self.attribute(node, name))
        if not 0 <= number < len(choices):
            known = ", ".join(f"{index} {choice}" for index, choice in enumerate(choices))
            raise self._refused(node, name, number, known)
        return choices[number]

    def factor(self, node: ir.Node, name: str) -> float:
        """An attribute that may not turn signs round.

        Raises:
            ExportError: It is negative or no finite number.
        """
        number = float(self.attribute(node, name))
        if not 0 <= number < math.inf:
            raise self._refused(node, name, number, "a finite number, 0 or more")
        return number

    def _refused(self, node: ir.Node, name: str, found: object, expected: str) -> ExportError:
        return ExportError(
            f"{self.name} does not know this '{name}'.",
            where=f"node '{node.name}'",
            found=found,
            expected=expected,
            fix="correct the node's attribute, or export the graph again",
        )

    def sizes(self, node: ir.Node, name: str, *axes: int) -> tuple[int, ...]:
        """Static sizes of an input at some axes.

        Raises:
            ExportError: The input is absent, or one of the sizes is not static.
        """
        value = self.input(node, name)
        shape = None if value is None else value.shape
        found = (
            () if shape is None else tuple(shape[axis] for axis in axes if -len(shape) <= axis < len(shape))
        )
        if len(found) != len(axes) or not all(isinstance(size, int) for size in found):
            raise ExportError(
                f"{self.name} needs static sizes of its input '{name}'.",
                where=f"node '{node.name}'",
                found=f"shape {shape}",
                expected=f"integers at the axes {axes}",
                fix="export the graph again; its inputs must carry shapes",
            )
        return tuple(int(size) for size in found if isinstance(size, int))

    def dims(self, node: ir.Node, name: str) -> tuple[int | str, ...]:
        """Shape of an input: numbers, and the names of dynamic axes.

        Raises:
            ExportError: The input has no shape, or an axis has neither size nor name.
        """
        value = self.input(node, name)
        shape = None if value is None else value.shape
        sizes = [size if isinstance(size, int) else size.value for size in shape or ()]
        if shape is None or None in sizes:
            raise ExportError(
                f"{self.name} needs the shape of its input '{name}'.",
                where=f"node '{node.name}'",
                found=f"shape {shape}",
                fix="export the graph again; its values must carry shapes",
            )
        return tuple(size for size in sizes if size is not None)
