"""R1HeadLinear and R1HeadMatMul: a product of its own for every head, as latent attention absorbs weights.

Legend: x [B,S,H,K] activations by head, w [H,N,K] as in a linear, or [H,K,N] as in a MatMul; y [B,S,H,N].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.edit import Emitter, data_type, dims_of
from r1trt.graph.functions import to_float
from r1trt.graph.network_view import LayerParts, ReadBack
from r1trt.graph.weights import typed_weight
from r1trt.ops.cost import CallSize, Cost, cost_of
from r1trt.ops.layer_function import LayerFunction
from r1trt.ops.layer_precision import WIDE, AllowedTypes, LayerPrecision, Precision
from r1trt.ops.product import asked_of_product, product_problems

HEADS_FIRST = [0, 2, 1, 3]
TRANSPOSED = [0, 2, 1]


@dataclass(frozen=True, kw_only=True)
class HeadProductSpec:
    """One product a head: x [...,num_heads,in_features]."""

    x: tuple[int | str, ...]
    num_heads: int
    in_features: int
    out_features: int


class HeadMatMul(LayerFunction[HeadProductSpec]):
    """R1HeadMatMul: y = x @ w[h] for w [H,K,N]; never FP8, since both operands are made inside attention."""

    name = "R1HeadMatMul"
    inputs = ("x", "w")
    outputs = ("y",)
    types = AllowedTypes(input=WIDE, weight=WIDE)
    transposes_weight: ClassVar[bool] = False

    def body(self, op: OpBuilder, *values: ir.Value) -> ir.Value:
        """The products in FLOAT."""
        x, w = values
        w = to_float(op, w)
        if self.transposes_weight:
            w = op.Transpose(w, perm=TRANSPOSED)
        y: ir.Value = op.Transpose(op.MatMul(op.Transpose(x, perm=HEADS_FIRST), w), perm=HEADS_FIRST)
        return y

    def spec_from_node(self, node: ir.Node) -> HeadProductSpec:
        """Read the sizes."""
        heads, rows, columns = self.sizes(node, "w", 0, 1, 2)
        inner, outer = (columns, rows) if self.transposes_weight else (rows, columns)
        return HeadProductSpec(x=self.dims(node, "x"), num_heads=heads, in_features=inner, out_features=outer)

    def default_layer(self, node: ir.Node, activation: Precision, *, fp8: bool) -> LayerPrecision:
        """The activations' type."""
        reason = f"an absorbed up-projection, one product a head, in {activation}"
        return LayerPrecision(
            op=self.name, input=activation, weight=activation, output=activation, reason=reason
        )

    def own_problems(self, layer: LayerPrecision) -> Iterator[str]:
        """A product's, and no shared expert."""
        yield from product_problems(layer)
        yield from super().own_problems(layer)

    def realize(self, node: ir.Node, layer: LayerPrecision) -> None:
        """Replace the node by a batched MatMul between two Transposes of the activations."""
        emit, act = Emitter(node, str(node.name)), data_type(layer.input)
        x = emit.cast(self.required(node, "x"), act, "CastInput")
        weight = typed_weight(emit.graph, self.required(node, "w"), data_type(layer.weight))
        if self.transposes_weight:
            weight = _transposed(emit, "TransposeWeight", weight, TRANSPOSED)
        x = _transposed(emit, "HeadsFirst", x, HEADS_FIRST)
        shape = (*dims_of(x)[:3], dims_of(node.outputs[0])[3])
        y = emit.node("MatMul", "MatMul", [x, weight], act, shape)
        y = _transposed(emit, "HeadsLast", y, HEADS_FIRST)
        emit.finish(node, emit.cast(y, data_type(layer.output), "CastProduct"))

    def read_back(self, parts: LayerParts, layer: LayerPrecision) -> ReadBack:
        """Types of the product."""
        return ReadBack(asked_of_product(layer), parts.product_types(parts.products))

    def cost(self, spec: HeadProductSpec, layer: LayerPrecision, call: CallSize) -> Cost:
        """One product a head; a weight is read once a call."""
        rows, weights = call.elements(spec.x[:-1]), spec.in_features * spec.out_features
        return cost_of(
            macs=[(layer.input, rows * weights)],
            reads=[(layer.input, rows * spec.in_features), (layer.weight, spec.num_heads * weights)],
            writes=[(layer.output, rows * spec.out_features)],
        )

    def reference_macs(self, spec: HeadProductSpec, call: CallSize) -> Mapping[str, int]:
        """The head's share of `kv_b_proj`, which makes keys and values of all latents at every call."""
        latents = call.batch * (call.past + call.tokens)
        return {"": latents * spec.num_heads * spec.in_features * spec.out_features}


class HeadLinear(HeadMatMul):
    """R1HeadLinear: y = x @ w[h].T for w [H,N,K]."""

    name = "R1HeadLinear"
    transposes_weight = True


def _transposed(emit: Emitter, what: str, value: ir.Value, perm: list[int]) -> ir.Value:
    assert value.dtype is not None
    dims = [dims_of(value)[axis] for axis in perm]
    return emit.node("Transpose", what, [value], value.dtype, dims, {"perm": perm})


HEAD_MATMUL = HeadMatMul()
HEAD_LINEAR = HeadLinear()
