"""Operators that are functions of the exported graph: exports carry their body, typing makes plain nodes.

All bodies compute in FLOAT and cast a weight where it is used, so weights keep the checkpoint's own bytes.
"""

from __future__ import annotations

from abc import abstractmethod

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.functions import function_from_body
from r1trt.ops.operator import Operator, Spec


class LayerFunction(Operator[Spec]):
    """An operator whose FP32 body every export carries."""

    @abstractmethod
    def body(self, op: OpBuilder, *values: ir.Value) -> ir.Value:
        """The layer in FLOAT, for one value an input."""

    def function(self) -> ir.Function:
        """The body as a model-local function."""
        return function_from_body(self.name, self.inputs, self.body, self.attributes)
