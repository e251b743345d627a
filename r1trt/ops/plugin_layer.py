"""What the operators that TensorRT has as plugins share."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from r1trt.ops.layer_precision import LayerPrecision

PLUGIN_NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
PLUGIN_WIDE = (ir.DataType.FLOAT, *PLUGIN_NARROW)


def one_type_problems(layer: LayerPrecision) -> Iterator[str]:
    """The operator has one type for all activations; FP8 inputs are quantized inside."""
    if layer.quantizes_input:
        return
    for name, kind in (("input", layer.input), ("weight", layer.weight)):
        if kind is not None and kind != layer.output:
            yield f"{name} is {kind} and output {layer.output}; the operator has one type for both"
