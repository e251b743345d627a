"""Weights stored the way round that ONNX Runtime's products read them."""

from __future__ import annotations

import numpy as np
from passes.hand_made import HandMade, normal, outputs_of

from r1trt.passes.pipeline import run_passes
from r1trt.passes.pretranspose_weights import PretransposeWeightsPass


def test_transposes_of_weights_go_and_others_stay() -> None:
    graph = HandMade()
    x, weight, shared = graph.input("x", [4, 8]), normal(0, 6, 8), graph.weight("shared", normal(1, 6, 6))
    moved = graph.node("Transpose", "t", [graph.weight("w", weight)], [8, 6], domain="", perm=[1, 0])
    product = graph.node("MatMul", "mm", [x, moved], [4, 6], domain="")
    turned = graph.node("Transpose", "u", [shared], [6, 6], domain="", perm=[1, 0])
    both = graph.node("Add", "both", [shared, turned], [6, 6], domain="")
    graph.output(graph.node("MatMul", "mm2", [product, both], [4, 6], domain=""), "y")
    model = graph.model()
    stored = run_passes(model, [PretransposeWeightsPass()])
    assert [node.name for node in stored.graph] == ["mm", "u", "both", "mm2"]
    assert set(stored.graph.initializers) == {"w.transposed", "shared"}
    tensor = stored.graph.initializers["w.transposed"].const_value
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), weight.T)
    feeds = {"x": normal(2, 4, 8)}
    np.testing.assert_allclose(outputs_of(stored, feeds)["y"], outputs_of(model, feeds)["y"], rtol=1e-5)
