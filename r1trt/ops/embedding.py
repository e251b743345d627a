"""R1Embedding: rows of a table by token ID."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.edit import Emitter, data_type, dims_of
from r1trt.graph.functions import to_float
from r1trt.graph.network_view import LayerParts, ReadBack
from r1trt.graph.weights import typed_weight
from r1trt.ops.cost import CallSize, Cost, Dims, cost_of
from r1trt.ops.layer_function import LayerFunction
from r1trt.ops.layer_precision import WIDE, AllowedTypes, LayerPrecision, Precision


@dataclass(frozen=True, kw_only=True)
class EmbeddingSpec:
    """One embedding: IDs of the shape `ids`, a table [vocabulary,width]."""

    ids: Dims
    vocabulary: int
    width: int


class Embedding(LayerFunction[EmbeddingSpec]):
    """R1Embedding: a Gather of rows in the plan's type."""

    name = "R1Embedding"
    inputs = ("ids", "w")
    outputs = ("y",)
    types = AllowedTypes(input=("int64",), weight=WIDE)

    def body(self, op: OpBuilder, *values: ir.Value) -> ir.Value:
        """The rows, cast behind the lookup."""
        ids, w = values
        return to_float(op, op.Gather(w, ids, axis=0))

    def spec_from_node(self, node: ir.Node) -> EmbeddingSpec:
        """Read the table's sizes."""
        vocabulary, width = self.sizes(node, "w", 0, 1)
        return EmbeddingSpec(ids=self.dims(node, "ids"), vocabulary=vocabulary, width=width)

    def default_layer(self, node: ir.Node, activation: Precision, *, fp8: bool) -> LayerPrecision:
        """The table in the activations' type."""
        return LayerPrecision(
            op=self.name,
            input="int64",
            weight=activation,
            output=activation,
            reason="a lookup; no arithmetic gains from FP8",
        )

    def realize(self, node: ir.Node, layer: LayerPrecision) -> None:
        """Look tokens up in a table of the plan's weight type."""
        emit, stored = Emitter(node, str(node.name)), data_type(layer.weight)
        table = typed_weight(emit.graph, self.required(node, "w"), stored)
        inputs, dims = [table, self.required(node, "ids")], dims_of(node.outputs[0])
        rows = emit.node("Gather", "Gather", inputs, stored, dims, {"axis": 0})
        emit.finish(node, emit.cast(rows, data_type(layer.output), "CastRows"))

    def read_back(self, parts: LayerParts, layer: LayerPrecision) -> ReadBack:
        """Type of the rows."""
        return ReadBack({"weight": str(layer.weight)}, {"weight": parts.outputs("GATHER")})

    def cost(self, spec: EmbeddingSpec, layer: LayerPrecision, call: CallSize) -> Cost:
        """A row a token."""
        tokens = call.elements(spec.ids)
        rows = tokens * spec.width
        return cost_of(
            macs=[], reads=[(layer.input, tokens), (layer.weight, rows)], writes=[(layer.output, rows)]
        )


EMBEDDING = Embedding()
