"""What an operator is: its signature, and access to a node's inputs and attributes by name.

The names of the operators carry `R1` because TensorRT's ONNX parser looks an operator up by its type and
ignores the domain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Generic, TypeVar

import onnx_ir as ir

from r1trt.errors import ExportError

DOMAIN = "r1trt"
DOMAIN_VERSION = 1
OPSET = 24
IR_VERSION = 12

AttributeValue = int | float
Spec = TypeVar("Spec")


class Operator(ABC, Generic[Spec]):
    """One operator: the contract between graphs, lowerings and plugins.

    Attributes:
        name: Operator type, and the TensorRT plugin's name.
        inputs: Input names in order.
        optional_inputs: Those of `inputs` that may be absent (an empty name in the node).
        outputs: Output names in order.
        attributes: Attribute names with their defaults; the default's type is the attribute's type.
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    optional_inputs: ClassVar[frozenset[str]] = frozenset()
    outputs: ClassVar[tuple[str, ...]]
    attributes: ClassVar[Mapping[str, AttributeValue]] = {}

    @abstractmethod
    def spec_from_node(self, node: ir.Node) -> Spec:
        """What a body has to know of a node: attributes, static sizes, types.

        Raises:
            ExportError: A static size is missing.
        """

    def input(self, node: ir.Node, name: str) -> ir.Value | None:
        """The value at the input `name`, or None where it is absent."""
        index = self.inputs.index(name)
        return node.inputs[index] if index < len(node.inputs) else None

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
        """An attribute's value, or its default."""
        attribute, default = node.attributes.get(name), self.attributes[name]
        if attribute is None:
            return default
        return attribute.as_float() if isinstance(default, float) else attribute.as_int()

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
