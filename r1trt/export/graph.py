"""A thin emitter for the main graph, where every size is known: values get types and shapes at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from r1trt.checkpoint import TensorRef
from r1trt.checkpoint.block_scales import FP8
from r1trt.config import SCALE_SUFFIXES
from r1trt.data_types import OF_SAFETENSORS
from r1trt.ops.cost import Dims
from r1trt.ops.dequantize_blocks import BLOCKS
from r1trt.ops.operator import DOMAIN, DOMAIN_VERSION, OPSET, Operator

Attributes = Mapping[str, int | float]


class GraphEmitter:
    """Appends named nodes and registers weights; the one place that makes values of the exported graph."""

    def __init__(self, name: str, weights: Mapping[str, TensorRef], locations: Mapping[str, str]) -> None:
        """Start an empty graph; `locations` are the weight files' names below the weight base directory."""
        self._weights = weights
        self._locations = locations
        self._dequantized: dict[str, ir.Value] = {}
        self.graph = ir.Graph([], [], nodes=[], name=name, opset_imports={"": OPSET, DOMAIN: DOMAIN_VERSION})

    def input(self, name: str, dtype: ir.DataType, shape: Dims) -> ir.Value:
        """Add a graph input."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.graph.inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str) -> None:
        """Make `value` a graph output called `name`."""
        value.name = name
        self.graph.outputs.append(value)

    def weight(self, name: str) -> ir.Value:
        """The checkpoint's tensor; FP8 with block scales is dequantized by a node."""
        if not self.is_fp8(name):
            return self.stored(name)
        if name not in self._dequantized:
            label = f"{name.removesuffix('.weight')}.dequantize"
            inputs = [self.stored(name), self.in_fp32(self.stored_scales(name), f"{label}.cast")]
            output = [(ir.DataType.FLOAT, self._weights[name].shape)]
            self._dequantized[name] = self.node(BLOCKS.name, label, inputs, output, domain=BLOCKS.domain)[0]
        return self._dequantized[name]

    def is_fp8(self, name: str) -> bool:
        """Whether the checkpoint holds a tensor in FP8, with the scales of its blocks beside it."""
        return self._weights[name].dtype == FP8

    def stored(self, name: str, dtype: ir.DataType | None = None) -> ir.Value:
        """The checkpoint's tensor as an initializer that points into its file; no byte is read.

        Args:
            name: The tensor's name.
            dtype: What its bytes are to be seen as; None means what they are.
        """
        existing = self.graph.initializers.get(name)
        if existing is not None:
            return existing
        ref = self._weights[name]
        tensor = ir.ExternalTensor(
            self._locations[ref.file],
            ref.offset,
            ref.length,
            dtype or ir.DataType(OF_SAFETENSORS[ref.dtype].onnx),
            shape=ir.Shape(ref.shape),
            name=name,
        )
        return self._register(name, tensor)

    def stored_scales(self, name: str) -> ir.Value:
        """The scales of an FP8 weight's blocks, of the type that the checkpoint has them in."""
        names = (f"{name}{suffix}" for suffix in SCALE_SUFFIXES)
        return self.stored(next(scales for scales in names if scales in self._weights))

    def in_fp32(self, value: ir.Value, name: str) -> ir.Value:
        """The value as FLOAT, by a Cast of this name where it is something else."""
        if value.dtype == ir.DataType.FLOAT:
            return value
        shape = tuple(size if isinstance(size, int) else str(size) for size in value.shape or ())
        output, to = [(ir.DataType.FLOAT, shape)], int(ir.DataType.FLOAT)
        return self.node("Cast", name, [value], output, {"to": to})[0]

    def constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        """A small initializer inside the graph file; made once a name."""
        existing = self.graph.initializers.get(name)
        return existing if existing is not None else self._register(name, ir.tensor(array, name=name))

    def node(
        self,
        op_type: str,
        name: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[tuple[ir.DataType, Dims]],
        attributes: Attributes | None = None,
        *,
        domain: str = "",
    ) -> tuple[ir.Value, ...]:
        """Append one node; `outputs` are (dtype, shape) of each output, named after the node."""
        names = [name if i == 0 else f"{name}.{i}" for i in range(len(outputs))]
        values = [
            ir.Value(name=f"{label}/out", type=ir.TensorType(dtype), shape=ir.Shape(shape))
            for label, (dtype, shape) in zip(names, outputs, strict=True)
        ]
        made = ir.node(op_type, inputs, dict(attributes or {}), domain=domain, outputs=values, name=name)
        self.graph.append(made)
        return tuple(values)

    def operator(
        self,
        operator: Operator[Any],
        name: str,
        inputs: Mapping[str, ir.Value | None],
        outputs: Sequence[tuple[ir.DataType, Dims]],
        attributes: Attributes | None = None,
    ) -> tuple[ir.Value, ...]:
        """Append a node of an operator; `inputs` are named, and those that are not given are absent."""
        values = self.node(operator.name, name, [], outputs, attributes, domain=operator.domain)
        node = values[0].producer()
        assert node is not None, "it was just made"
        for label, value in inputs.items():
            operator.set_input(node, label, value)
        return values

    def _register(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        shape = ir.Shape(int(size) for size in tensor.shape if isinstance(size, int))
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        self.graph.register_initializer(value)
        return value
