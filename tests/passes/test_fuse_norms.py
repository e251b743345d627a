"""Residual sums and norms as one node."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from passes.hand_made import HandMade, normal, outputs_of

from r1trt.passes.fuse_norms import FuseNormsPass
from r1trt.passes.pipeline import run_passes

SHAPE = ("B", "S", 8)


def stack(*, dtype: ir.DataType = ir.DataType.FLOAT, axis: int = -1, last: tuple[int, ...] = ()) -> ir.Model:
    """Two sums, the second of the first, each with a norm; both norms are outputs, and the last sum."""
    graph = HandMade()
    x, y = graph.input("x", SHAPE, dtype), graph.input("y", SHAPE, dtype)
    z = graph.input("z", last or SHAPE, dtype)
    numpy_type = dtype.numpy()
    gammas = [graph.weight(f"gamma{index}", normal(index, 8).astype(numpy_type)) for index in range(2)]
    attributes = {"epsilon": 1e-3, "axis": axis}
    total = graph.node("Add", "first", [x, y], SHAPE, domain="", dtype=dtype)
    one = graph.node(
        "RMSNormalization", "a/n", [total, gammas[0]], SHAPE, domain="", dtype=dtype, **attributes
    )
    total = graph.node("Add", "second", [total, z], SHAPE, domain="", dtype=dtype)
    two = graph.node(
        "RMSNormalization", "b/n", [total, gammas[1]], SHAPE, domain="", dtype=dtype, **attributes
    )
    doubled = graph.node("Add", "third", [total, total], SHAPE, domain="", dtype=dtype)
    for value, name in ((one, "one"), (two, "two"), (doubled, "doubled")):
        graph.output(value, name)
    return graph.model()


@pytest.mark.parametrize("axis", [-1, 2])
def test_a_sum_and_its_norm_become_one_node_that_hands_the_sum_on(axis: int) -> None:
    model = stack(axis=axis)
    fused = run_passes(model, [FuseNormsPass()])
    names = [f"{key}/SkipSimplifiedLayerNormalization" for key in "ab"]
    assert [node.name for node in fused.graph] == [*names, "third"]
    feeds = {name: normal(5 + index, 2, 3, 8) for index, name in enumerate("xyz")}
    got, want = outputs_of(fused, feeds), outputs_of(model, feeds)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-6, atol=2e-6, err_msg=name)


def test_a_sum_that_nothing_else_reads_is_no_output() -> None:
    graph = HandMade()
    x, gamma = graph.input("x", SHAPE), graph.weight("gamma", normal(0, 8))
    total = graph.node("Add", "sum", [x, x], SHAPE, domain="")
    graph.output(graph.node("RMSNormalization", "n", [total, gamma], SHAPE, domain="", epsilon=1e-6), "y")
    model = graph.model()
    fused = run_passes(model, [FuseNormsPass()])
    (node,) = fused.graph
    assert node.op_type == "SkipSimplifiedLayerNormalization" and not node.outputs[3].name
    feeds = {"x": normal(1, 1, 4, 8)}
    np.testing.assert_allclose(outputs_of(fused, feeds)["y"], outputs_of(model, feeds)["y"], rtol=2e-6)


STAYS: dict[str, tuple[ir.Model, int]] = {
    "half precision": (stack(dtype=ir.DataType.FLOAT16), 5),
    "another axis": (stack(axis=1), 5),
    "only the first sum is one of equal shapes": (stack(last=(1, 8)), 4),
}


@pytest.mark.parametrize("case", STAYS)
def test_what_the_operator_does_not_compute_stays(case: str) -> None:
    model, left = STAYS[case]
    assert len(list(run_passes(model, [FuseNormsPass()]).graph)) == left


def test_a_sum_that_the_graph_returns_stays() -> None:
    graph = HandMade()
    x, gamma = graph.input("x", SHAPE), graph.weight("gamma", normal(0, 8))
    total = graph.node("Add", "sum", [x, x], SHAPE, domain="")
    graph.output(graph.node("RMSNormalization", "n", [total, gamma], SHAPE, domain="", epsilon=1e-6), "y")
    graph.output(total, "total")
    assert [node.op_type for node in run_passes(graph.model(), [FuseNormsPass()]).graph] == [
        "Add",
        "RMSNormalization",
    ]
