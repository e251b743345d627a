"""What operators with a matrix product share: quantized operands, rules of types, what is read back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from r1trt.graph.block_codes import BLOCK_SIZES
from r1trt.graph.edit import FLOAT, Emitter, dims_of
from r1trt.graph.network_view import Types
from r1trt.graph.weight_grid import CODES, Grid
from r1trt.ops.layer_precision import FP8, INT4, INT8, WIDE, AllowedTypes, LayerPrecision, Precision

PRODUCT_TYPES = AllowedTypes(input=(FP8, INT8, *WIDE), weight=(FP8, INT8, INT4, *WIDE))


def product_problems(layer: LayerPrecision) -> Iterator[str]:
    """Both operands of a product have one type, and so has what they are dequantized to."""
    if layer.block_size is not None:
        yield from _block_problems(layer)
        return
    if layer.weight == INT4:
        yield "weight is int4 without block_size; INT4 has a scale a block"
    if layer.quantizes_input and layer.weight != layer.input:
        yield f"input is {layer.input} and weight {layer.weight}; a product of codes has one type for both"
    elif not layer.quantizes_weight and layer.weight != layer.input:
        yield f"input is {layer.input} and weight {layer.weight}; a product has one type for both"


def _block_problems(layer: LayerPrecision) -> Iterator[str]:
    """Weights in blocks meet activations in FP32, or those rounded to INT8 as they come."""
    if layer.weight not in (INT8, INT4):
        yield f"block_size belongs to an int8 or int4 weight, and weight is {layer.weight}"
    if layer.input not in (INT8, "fp32") or layer.output != "fp32":
        yield (
            f"input is {layer.input} and output {layer.output}; a product of weights in blocks takes int8 or "
            "fp32 and gives fp32"
        )
    yield from known_block_size_problems(layer)
    if layer.weight_scale is not None or layer.input_scale is not None:
        yield "scales are given beside block_size; those of blocks are found while the weight is written"


def known_block_size_problems(layer: LayerPrecision) -> Iterator[str]:
    """The block size of a layer that has one is one that ONNX Runtime's products take."""
    if layer.block_size not in BLOCK_SIZES:
        yield f"block_size is {layer.block_size}, can be {', '.join(map(str, BLOCK_SIZES))}"


def grid_of_layer(layer: LayerPrecision) -> Grid:
    """The numbers that a quantized weight of a layer may take."""
    code = next(code for code in CODES if code == layer.weight)
    if layer.block_size is not None:
        return Grid(code=code, scaling="block", block_size=layer.block_size)
    return Grid(code=code, scaling="tensor" if layer.weight_axis is None else "channel")


def product_output(layer: LayerPrecision) -> Precision:
    """Type that a product is computed to, and its bias added in; a cast to the layer's output follows."""
    return layer.output if layer.quantizes_input else layer.input


def asked_of_product(layer: LayerPrecision) -> Types:
    """Types that a product of a network must have."""
    return {"input": layer.input, "weight": str(layer.weight), "output": product_output(layer)}


def quantize_dequantize(emit: Emitter, x: ir.Value, input_scale: float, codes: ir.DataType) -> ir.Value:
    """Round x to the grid of a static scale: builders turn it into an operand of codes of the next product.

    The scale is FP32 and the division too (`precision`); a BF16 scale would be off by up to 0.4 %.
    """
    assert x.dtype is not None
    scale = emit.constant("input_scale", np.asarray(input_scale, np.float32))
    attributes = {"precision": int(FLOAT), "output_dtype": int(codes)}
    quantized = emit.node("QuantizeLinear", "QuantizeInput", [x, scale], codes, dims_of(x), attributes)
    back = {"output_dtype": int(x.dtype)}
    return emit.node("DequantizeLinear", "DequantizeInput", [quantized, scale], x.dtype, dims_of(x), back)
