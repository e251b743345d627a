"""Weights that were quantized elsewhere take the place of those that are rounded to nearest while written."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from r1trt.errors import PlanError


class SetWeightsPass(ir.passes.InPlacePass):
    """Replace the contents of initializers.

    Args:
        weights: Tensors by the initializer's name, of its type and shape.
    """

    def __init__(self, weights: Mapping[str, ir.TensorProtocol]) -> None:
        super().__init__()
        self._weights = weights

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raises PlanError where the graph has no such initializer, or one of another type or shape."""
        for name, tensor in self._weights.items():
            value = model.graph.initializers.get(name)
            found = None if value is None else (value.dtype, tuple(value.shape or ()))
            expected = (tensor.dtype, tuple(tensor.shape))
            if value is None or found != expected:
                raise PlanError(
                    "A quantized weight does not fit the graph.", where=name, found=found, expected=expected
                )
            value.const_value = tensor
        return ir.passes.PassResult(model, bool(self._weights))
