"""R1Linear and R1LinearBias: y = x @ w.T (+ b), as plain nodes with Q/DQ where the plan quantizes.

Legend: x [...,K] activations, w [N,K] a weight as Hugging Face stores it, b [N].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.block_nodes import block_product
from r1trt.graph.edit import FLOAT, Emitter, data_type, dims_of
from r1trt.graph.functions import to_float
from r1trt.graph.network_view import LayerParts, ReadBack
from r1trt.graph.weights import matmul_weight, typed_weight
from r1trt.ops.cost import CallSize, Cost, Dims, cost_of
from r1trt.ops.layer_function import LayerFunction
from r1trt.ops.layer_precision import FP8, INT8, LayerPrecision, Precision
from r1trt.ops.operator import ScaledWeight
from r1trt.ops.product import (
    PRODUCT_TYPES,
    asked_of_product,
    grid_of_layer,
    product_output,
    product_problems,
    quantize_dequantize,
)


@dataclass(frozen=True, kw_only=True)
class LinearSpec:
    """One linear: x of the shape `x`, w [out_features,in_features]."""

    x: Dims
    in_features: int
    out_features: int
    has_bias: bool

    def rows(self, call: CallSize) -> int:
        """Rows of the product."""
        return call.elements(self.x[:-1])

    @property
    def weights(self) -> int:
        """Elements of w."""
        return self.in_features * self.out_features


class Linear(LayerFunction[LinearSpec]):
    """R1Linear: the product has its input's type; of codes the output's, as has the input before Q/DQ."""

    name = "R1Linear"
    inputs: ClassVar[tuple[str, ...]] = ("x", "w")
    outputs = ("y",)
    types = PRODUCT_TYPES
    input_scales = ("input_scale",)
    weight_scales = ("weight_scale",)

    def body(self, op: OpBuilder, *values: ir.Value) -> ir.Value:
        """The product in FLOAT, and the bias where there is one."""
        x, w, *bias = values
        y: ir.Value = op.MatMul(x, op.Transpose(to_float(op, w), perm=[1, 0]))
        return op.Add(y, to_float(op, bias[0])) if bias else y

    def spec_from_node(self, node: ir.Node) -> LinearSpec:
        """Read the sizes of a linear."""
        out_features, in_features = self.sizes(node, "w", 0, 1)
        return LinearSpec(
            x=self.dims(node, "x"),
            in_features=in_features,
            out_features=out_features,
            has_bias="b" in self.inputs,
        )

    def default_layer(self, node: ir.Node, activation: Precision, *, fp8: bool) -> LayerPrecision:
        """FP8 products where asked for."""
        kind, reason = activation, f"matrix product in {activation}"
        if fp8:
            kind, reason = FP8, "matrix product on FP8 tensor cores"
        return LayerPrecision(op=self.name, input=kind, weight=kind, output=activation, reason=reason)

    def in_blocks(self, wide: LayerPrecision, code: Precision, block_size: int) -> LayerPrecision:
        """The weight in blocks, activations in INT8 blocks as they come."""
        return replace(wide, input=INT8, weight=code, block_size=block_size)

    def own_problems(self, layer: LayerPrecision) -> Iterator[str]:
        """A product's, and no shared expert."""
        yield from product_problems(layer)
        yield from super().own_problems(layer)

    def node_problems(self, node: ir.Node, layer: LayerPrecision) -> Iterator[str]:
        """Scales a row are as many as rows."""
        scale, (rows,) = layer.weight_scale, self.sizes(node, "w", 0)
        if isinstance(scale, tuple) and len(scale) != rows:
            yield f"weight_scale holds {len(scale)} scales for {rows} rows"

    def scaled_weights(self, node: ir.Node, *, by_row: bool) -> dict[str, list[ScaledWeight]]:
        """The weight, by row or as a whole."""
        weight = ScaledWeight(value=self.required(node, "w"), axis=0 if by_row else None)
        return {"weight_scale": [weight]}

    def realize(self, node: ir.Node, layer: LayerPrecision) -> None:
        """Replace the node by Transpose, MatMul and Add, or by a product of blocks."""
        emit = Emitter(node, str(node.name))
        if layer.block_size is not None:
            self._realize_blocks(node, layer, emit)
            return
        act = data_type(product_output(layer))
        x = emit.cast(self.required(node, "x"), act, "CastInput")
        if layer.input_scale is not None:
            x = quantize_dequantize(emit, x, layer.input_scale, data_type(layer.input))
        weight = matmul_weight(
            emit, self.required(node, "w"), data_type(layer.weight), act, layer.weight_scale
        )
        y = emit.node("MatMul", "MatMul", [x, weight], act, dims_of(node.outputs[0]))
        if "b" in self.inputs:
            bias = typed_weight(emit.graph, self.required(node, "b"), act)
            y = emit.node("Add", "AddBias", [y, bias], act, dims_of(y))
        emit.finish(node, emit.cast(y, data_type(layer.output), "CastProduct"))

    def _realize_blocks(self, node: ir.Node, layer: LayerPrecision, emit: Emitter) -> None:
        """One MatMulNBits of ONNX Runtime, which adds the bias too."""
        x = emit.cast(self.required(node, "x"), FLOAT, "CastInput")
        bias = typed_weight(emit.graph, self.required(node, "b"), FLOAT) if "b" in self.inputs else None
        grid = grid_of_layer(layer)
        emit.finish(node, block_product(emit, x, self.required(node, "w"), grid, bias, layer.quantizes_input))

    def read_back(self, parts: LayerParts, layer: LayerPrecision) -> ReadBack:
        """Types of the product."""
        return ReadBack(asked_of_product(layer), parts.product_types(parts.products))

    def cost(self, spec: LinearSpec, layer: LayerPrecision, call: CallSize) -> Cost:
        """One product; weight and bias are read once a call."""
        rows, weights = spec.rows(call), spec.weights
        act, bias = product_output(layer), spec.out_features * spec.has_bias
        return cost_of(
            macs=[(layer.input, rows * weights), (act, rows * bias)],
            reads=[
                (layer.input, rows * spec.in_features),
                (layer.weight, weights),
                (act, bias),
                ("fp32", weights // layer.block_size if layer.block_size else 0),
            ],
            writes=[(layer.output, rows * spec.out_features)],
        )

    def reference_macs(self, spec: LinearSpec, call: CallSize) -> Mapping[str, int]:
        """The product, without its bias."""
        return {"": spec.rows(call) * spec.weights}


class LinearBias(Linear):
    """R1LinearBias: a linear with a bias, in the type of the product."""

    name = "R1LinearBias"
    inputs = ("x", "w", "b")


LINEAR = Linear()
LINEAR_BIAS = LinearBias()
