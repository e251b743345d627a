"""Products of one value as one product with the rows of all weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from passes.hand_made import HandMade, normal, outputs_of, plan_of
from passes.typed import typed_model_from_plan

from r1trt.build.write_typed import write_typed_model
from r1trt.errors import PlanError
from r1trt.graph.joined import JoinedTensor
from r1trt.ops.layer_precision import LayerPrecision, Precision
from r1trt.passes.merge_products import MergeProductsPass
from r1trt.passes.pipeline import run_passes
from r1trt.passes.pretranspose_weights import PretransposeWeightsPass

K, SIZES, BLOCKED = 8, (6, 4, 2), 40


def product(
    graph: HandMade, name: str, x: ir.Value, weight: ir.Value, bias: ir.Value | None = None
) -> ir.Value:
    """A linear as plans write it."""
    rows = int(str(weight.shape[0])) if weight.shape is not None else 0
    turned = graph.node("Transpose", f"{name}/TransposeWeight", [weight], [K, rows], domain="", perm=[1, 0])
    y = graph.node("MatMul", f"{name}/MatMul", [x, turned], ["B", "S", rows], domain="")
    if bias is None:
        return y
    return graph.node("Add", f"{name}/AddBias", [y, bias], ["B", "S", rows], domain="")


def projections(*, biases: bool) -> ir.Model:
    """q, k and v of x, each with its square as an output."""
    graph = HandMade()
    x = graph.input("x", ["B", "S", K])
    for index, (name, rows) in enumerate(zip("qkv", SIZES, strict=True)):
        bias = graph.weight(f"{name}.bias", normal(10 + index, rows)) if biases else None
        y = product(graph, name, x, graph.weight(f"{name}.weight", normal(index, rows, K)), bias)
        graph.output(graph.node("Mul", f"{name}2", [y, y], ["B", "S", rows], domain=""), f"{name}_out")
    return graph.model()


@pytest.mark.parametrize("biases", [False, True])
def test_products_of_one_value_become_one_and_a_split(biases: bool) -> None:
    model = projections(biases=biases)
    merged = run_passes(model, [MergeProductsPass(), PretransposeWeightsPass()])
    adds = ["q/AddMergedBias"] if biases else []
    names = ["q/MergedMatMul", *adds, "q/SplitMerged", "q2", "k2", "v2"]
    assert [node.name for node in merged.graph] == names
    joined = "q.weight+k.weight+v.weight.transposed"
    bias_names = {"q.bias+k.bias+v.bias"} if biases else set()
    assert set(merged.graph.initializers) == {joined, "split.6_4_2", *bias_names}
    feeds = {"x": normal(5, 2, 3, K)}
    got, want = outputs_of(merged, feeds), outputs_of(model, feeds)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("kinds", [("int4", "int4", "int4"), ("int8", "int4", "int8")])
def test_products_of_blocks_of_one_kind_become_one(biases: bool, kinds: tuple[Precision, ...]) -> None:
    graph = HandMade()
    x = graph.input("x", ["B", "S", BLOCKED])
    op = "R1LinearBias" if biases else "R1Linear"
    layers = {}
    for index, (name, rows, kind) in enumerate(zip("qkv", SIZES, kinds, strict=True)):
        inputs = [x, graph.weight(f"{name}.weight", normal(index, rows, BLOCKED))]
        inputs += [graph.weight(f"{name}.bias", normal(10 + index, rows))] if biases else []
        y = graph.node(op, name, inputs, ["B", "S", rows])
        graph.output(graph.node("Mul", f"{name}2", [y, y], ["B", "S", rows], domain=""), f"{name}_out")
        layers[name] = LayerPrecision(
            op=op, input="int8", weight=kind, output="fp32", block_size=16, reason="a test"
        )
    model = graph.model()
    typed = typed_model_from_plan(model, plan_of(model, layers), "onnxruntime")
    merged = run_passes(typed, [MergeProductsPass()])
    products = [str(node.name) for node in merged.graph if node.op_type == "MatMulNBits"]
    whole = kinds[0] == kinds[1]
    assert products == (["q/MergedMatMul"] if whole else ["q/MergedMatMul", "k/MatMul"])
    feeds = {"x": normal(5, 2, 3, BLOCKED)}
    got, want = outputs_of(merged, feeds), outputs_of(typed, feeds)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_what_differs_stays_apart() -> None:
    """A product of another value, with a bias where the other has none, of a shared weight, or an output."""
    graph = HandMade()
    x, other = graph.input("x", ["B", "S", K]), graph.input("other", ["B", "S", K])
    shared = graph.weight("shared", normal(3, 5, K))
    results = [
        product(graph, "plain", x, graph.weight("w0", normal(0, 4, K))),
        product(graph, "bias", x, graph.weight("w1", normal(1, 4, K)), graph.weight("b", normal(7, 4))),
        product(graph, "elsewhere", other, graph.weight("w2", normal(2, 4, K))),
        product(graph, "shared1", x, shared),
        product(graph, "shared2", x, shared),
    ]
    for index, value in enumerate(results):
        shape = list(value.shape or ())
        graph.output(graph.node("Abs", f"a{index}", [value], shape, domain=""), f"y{index}")
    graph.output(product(graph, "returned", x, graph.weight("w3", normal(4, 4, K))), "returned")
    model = graph.model()
    assert [node.name for node in run_passes(model, [MergeProductsPass()]).graph] == [
        node.name for node in model.graph
    ]


def test_joined_weights_are_read_when_they_are_written(tmp_path: Path) -> None:
    model, read = projections(biases=False), []

    def lazy(name: str, array: np.ndarray) -> ir.LazyTensor:
        def values() -> ir.Tensor:
            read.append(name)
            return ir.Tensor(array, name=name)

        return ir.LazyTensor(values, ir.DataType.FLOAT, ir.Shape(array.shape), name=name)

    big = {
        name: normal(index, rows * 64, K) for index, (name, rows) in enumerate(zip("qkv", SIZES, strict=True))
    }
    for name, array in big.items():
        value = model.graph.initializers[f"{name}.weight"]
        value.const_value, value.shape = lazy(name, array), ir.Shape(array.shape)
        turned, product_node = (model.graph.node(f"{name}/{what}") for what in ("TransposeWeight", "MatMul"))
        turned.outputs[0].shape = ir.Shape((K, len(array)))
        product_node.outputs[0].shape = ir.Shape(("B", "S", len(array)))
    merged = run_passes(model, [MergeProductsPass()])
    assert read == []
    write_typed_model(merged, tmp_path)
    assert read == ["q", "k", "v"]
    (weight,) = (value for name, value in merged.graph.initializers.items() if name.startswith("q.weight"))
    assert weight.const_value is not None
    np.testing.assert_array_equal(weight.const_value.numpy(), np.concatenate(list(big.values())))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_rows_of_any_rank_and_type_are_joined(dtype: type[np.generic]) -> None:
    arrays = [np.arange(rows * 6).reshape(rows, 2, 3).astype(dtype) for rows in (4, 1)]
    joined = JoinedTensor([ir.tensor(array) for array in arrays], name="both")
    np.testing.assert_array_equal(joined.numpy(), np.concatenate(arrays))


def test_weights_that_do_not_fit_are_refused() -> None:
    parts = [ir.tensor(np.zeros(shape, np.float32)) for shape in ((2, 3), (2, 4))]
    with pytest.raises(PlanError, match="do not fit together"):
        JoinedTensor(parts, name="both")
