"""Products of one value with several weights as one product with the weights' rows joined."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from r1trt.graph.block_codes import MATMUL_NBITS
from r1trt.graph.domain import MICROSOFT
from r1trt.graph.edit import FLOAT, Emitter, dims_of, register, replace_value, static_dims
from r1trt.graph.joined import join_rows

_TRANSPOSED = [1, 0]


class ProductForm(Protocol):
    """A way to write a product y [B,S,N] = x [B,S,K] times weights of N rows."""

    def traits(self, node: ir.Node) -> Hashable | None:
        """What products that can be joined have in common beside x; None where a node is no such product."""

    def joined(self, emit: Emitter, nodes: Sequence[ir.Node], columns: int) -> ir.Value:
        """The product of `columns` = N in all with the rows of all weights, in the nodes' order."""


class MatMulForm:
    """A MatMul with an FP32 weight [N,K] that a Transpose turns."""

    def traits(self, node: ir.Node) -> Hashable | None:
        """All of them go together: they read one value, so K is one."""
        is_product = node.op_type == "MatMul" and node.domain == "" and node.outputs[0].dtype == FLOAT
        return "MatMul" if is_product and _turned_weight(node) is not None else None

    def joined(self, emit: Emitter, nodes: Sequence[ir.Node], columns: int) -> ir.Value:
        """The same two nodes around the joined weight."""
        weights = [weight for weight in map(_turned_weight, nodes) if weight is not None]
        whole = join_rows(emit.graph, weights)
        dims = tuple(reversed(static_dims(whole)))
        turned = emit.node("Transpose", "TransposeWeights", [whole], FLOAT, dims, {"perm": _TRANSPOSED})
        shape = (*dims_of(nodes[0].outputs[0])[:-1], columns)
        return emit.node("MatMul", "MergedMatMul", [nodes[0].inputs[0], turned], FLOAT, shape)


class BlockForm:
    """A MatMulNBits, whose weight is codes and scales of blocks along K, and its bias inside."""

    def traits(self, node: ir.Node) -> Hashable | None:
        """Blocks of one kind, a bias in all of them or in none."""
        if node.op_type != MATMUL_NBITS or node.domain != MICROSOFT or not _alone(_constants(node)):
            return None
        kind = tuple(node.attributes[name].as_int() for name in ("K", "bits", "block_size", "accuracy_level"))
        return MATMUL_NBITS, kind, len(_constants(node))

    def joined(self, emit: Emitter, nodes: Sequence[ir.Node], columns: int) -> ir.Value:
        """One node with the codes, scales and biases of all rows."""
        parts = zip(*map(_constants, nodes), strict=True)
        codes, scales, *bias = (join_rows(emit.graph, values) for values in parts)
        attributes = {name: value.as_int() for name, value in nodes[0].attributes.items()} | {"N": columns}
        inputs = [nodes[0].inputs[0], codes, scales, *([None, None, *bias] if bias else [])]
        shape = (*dims_of(nodes[0].outputs[0])[:-1], columns)
        return emit.contrib_node(MATMUL_NBITS, "MergedMatMul", inputs, [shape], attributes)[0]


FORMS: tuple[ProductForm, ...] = (MatMulForm(), BlockForm())


@dataclass(frozen=True, kw_only=True)
class _Product:
    """A product that may be joined with others; `add` is the node of its bias."""

    form: ProductForm
    node: ir.Node
    add: ir.Node | None
    bias: ir.Value | None
    columns: int

    @property
    def result(self) -> ir.Value:
        return (self.add or self.node).outputs[0]


class MergeProductsPass(ir.passes.InPlacePass):
    """q, k and v, gate and up: one product, its bias, and a Split behind.

    Weights are joined by their rows, which are read when they are written.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The joined product stands where the first of its products was, and is named after that."""
        groups: dict[Hashable, list[_Product]] = {}
        for node in model.graph:
            for form in FORMS:
                product, traits = _product(node, form), form.traits(node)
                if product is not None:
                    key = (id(node.inputs[0]), traits, product.bias is not None)
                    groups.setdefault(key, []).append(product)
        merged = [products for products in groups.values() if len(products) > 1]
        for products in merged:
            _merge(products)
        if merged:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, bool(merged))


def _turned_weight(node: ir.Node) -> ir.Value | None:
    """The initializer [N,K] of a product that nothing else reads."""
    turned = node.inputs[1]
    transpose = None if turned is None else turned.producer()
    if transpose is None or transpose.op_type != "Transpose" or len(transpose.outputs[0].uses()) != 1:
        return None
    weight, perm = transpose.inputs[0], transpose.attributes.get("perm")
    if perm is None or list(perm.as_ints()) != _TRANSPOSED or weight is None or weight.dtype != FLOAT:
        return None
    return weight if weight.const_value is not None and len(weight.uses()) == 1 else None


def _constants(node: ir.Node) -> list[ir.Value]:
    """Codes, scales and bias of a MatMulNBits."""
    return [value for value in node.inputs[1:] if value is not None]


def _alone(values: Sequence[ir.Value]) -> bool:
    """Whether they are initializers that nothing else reads."""
    return all(value.const_value is not None and len(value.uses()) == 1 for value in values)


def _product(node: ir.Node, form: ProductForm) -> _Product | None:
    if form.traits(node) is None:
        return None
    columns = dims_of(node.outputs[0])[-1]
    add, bias = _bias_behind(node)
    product = _Product(form=form, node=node, add=add, bias=bias, columns=int(str(columns)))
    outputs = [node.outputs[0], product.result]
    return None if any(output.is_graph_output() for output in outputs) else product


def _bias_behind(node: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    """The sum with a vector that alone reads a product, and the vector."""
    users = [user for user, _ in node.outputs[0].uses()]
    if len(users) != 1 or users[0].op_type != "Add" or users[0].domain != "":
        return None, None
    constants = (value for value in users[0].inputs if value is not None and value.const_value is not None)
    bias = next(constants, None)
    fits = bias is not None and dims_of(bias) == dims_of(node.outputs[0])[-1:]
    return (users[0], bias) if fits else (None, None)


def _merge(products: Sequence[_Product]) -> None:
    first, sizes = products[0], [product.columns for product in products]
    emit = Emitter(first.node, str(first.node.name).rpartition("/")[0] or str(first.node.name))
    y = first.form.joined(emit, [product.node for product in products], sum(sizes))
    biases = [product.bias for product in products if product.bias is not None]
    if biases:
        y = emit.node("Add", "AddMergedBias", [y, join_rows(emit.graph, biases)], FLOAT, dims_of(y))
    for product, part in zip(products, _split(emit, first.node, y, sizes), strict=True):
        replace_value(product.result, part)


def _split(emit: Emitter, anchor: ir.Node, y: ir.Value, sizes: Sequence[int]) -> list[ir.Value]:
    """The columns of y, `sizes` at a time."""
    name, lead = f"{emit.key}/SplitMerged", dims_of(y)[:-1]
    numbers = ir.tensor(list(sizes), dtype=ir.DataType.INT64, name=f"split.{'_'.join(map(str, sizes))}")
    parts = [
        ir.Value(name=f"{name}/out.{index}", type=ir.TensorType(FLOAT), shape=ir.Shape([*lead, size]))
        for index, size in enumerate(sizes)
    ]
    inputs = [y, register(emit.graph, numbers)]
    emit.graph.insert_before(anchor, ir.node("Split", inputs, {"axis": -1}, outputs=parts, name=name))
    return parts
