"""R1Embedding: rows of a table by token ID."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.block_nodes import block_rows
from r1trt.graph.edit import Emitter, data_type, dims_of
from r1trt.graph.functions import to_float
from r1trt.graph.network_view import LayerParts, ReadBack
from r1trt.graph.weights import typed_weight
from r1trt.ops.cost import CallSize, Cost, Dims, cost_of
from r1trt.ops.layer_function import LayerFunction
from r1trt.ops.layer_precision import INT8, WIDE, AllowedTypes, LayerPrecision, Precision
from r1trt.ops.product import grid_of_layer, known_block_size_problems


@dataclass(frozen=True, kw_only=True)
class EmbeddingSpec:
    """One embedding: IDs of the shape `ids`, a table [vocabulary,width]."""

    ids: Dims
    vocabulary: int
    width: int


class Embedding(LayerFunction[EmbeddingSpec]):
    """R1Embedding: a Gather of rows in the plan's type, of INT8 in blocks codes and scales."""

    name = "R1Embedding"
    inputs = ("ids", "w")
    outputs = ("y",)
    types = AllowedTypes(input=("int64",), weight=(INT8, *WIDE))

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

    def in_blocks(self, wide: LayerPrecision, code: Precision, block_size: int) -> LayerPrecision:
        """The table in INT8: the blocks of a tied head, which is never narrower by rule."""
        return replace(wide, weight=INT8, block_size=block_size)

    def own_problems(self, layer: LayerPrecision) -> Iterator[str]:
        """INT8 comes in blocks, as ONNX Runtime's products read them, and no shared expert."""
        blocks = layer.block_size is not None
        if blocks != (layer.weight == INT8):
            yield (
                f"weight is {layer.weight} and block_size {layer.block_size}; int8 tables, and no others, "
                "have one"
            )
        if blocks:
            yield from known_block_size_problems(layer)
        if blocks and layer.output != "fp32":
            yield f"output is {layer.output}; rows of a table in blocks are fp32"
        yield from super().own_problems(layer)

    def typed_weights(self, node: ir.Node) -> list[ir.Value]:
        """The table, whose blocks have scales that no plan lists."""
        return [self.required(node, "w")]

    def realize(self, node: ir.Node, layer: LayerPrecision) -> None:
        """Look tokens up in a table of the plan's weight type."""
        emit, stored = Emitter(node, str(node.name)), data_type(layer.weight)
        if layer.block_size is not None:
            table, ids = self.required(node, "w"), self.required(node, "ids")
            emit.finish(node, block_rows(emit, table, ids, grid_of_layer(layer)))
            return
        table = typed_weight(emit.graph, self.required(node, "w"), stored)
        inputs, dims = [table, self.required(node, "ids")], dims_of(node.outputs[0])
        rows = emit.node("Gather", "Gather", inputs, stored, dims, {"axis": 0})
        emit.finish(node, emit.cast(rows, data_type(layer.output), "CastRows"))

    def read_back(self, parts: LayerParts, layer: LayerPrecision) -> ReadBack:
        """Type of the rows."""
        return ReadBack({"weight": str(layer.weight)}, {"weight": parts.outputs("GATHER")})

    def cost(self, spec: EmbeddingSpec, layer: LayerPrecision, call: CallSize) -> Cost:
        """A row a token, with its scales."""
        tokens = call.elements(spec.ids)
        rows = tokens * spec.width
        scales = tokens * -(-spec.width // layer.block_size) if layer.block_size else 0
        return cost_of(
            macs=[],
            reads=[(layer.input, tokens), (layer.weight, rows), ("fp32", scales)],
            writes=[(layer.output, rows)],
        )


EMBEDDING = Embedding()
