"""Experts in FP32 as ONNX Runtime's MoE against the arithmetic of the specification, in FP64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from lowerings.test_onnxruntime_experts_in_blocks import CASES, HIDDEN, TOKENS, exported
from lowerings.test_tensorrt_rtx import MoeCase, moe_reference, moe_weights
from passes.hand_made import outputs_of

from r1trt.passes.alternate_experts import AlternateExpertsPass
from r1trt.passes.inline_bodies import InlineBodiesPass
from r1trt.passes.pipeline import run_passes
from r1trt.passes.set_bodies import SetBodiesPass

TOLERANCE = 2e-6  # of the largest value, over sums of 64 products in FP32
FEW = MoeCase("more to choose than a part holds", experts=6, top_k=4, hidden=HIDDEN, width=32)


def as_operator(model: ir.Model) -> ir.Model:
    passes = [AlternateExpertsPass(), SetBodiesPass("onnxruntime"), InlineBodiesPass(keep="onnxruntime")]
    return run_passes(model, passes)


def kinds(model: ir.Model) -> set[str]:
    bodies = [node.op_type for body in model.functions.values() for node in body]
    return {*bodies, *(node.op_type for node in model.graph)}


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("case", [*CASES, FEW], ids=lambda case: case.name)
def test_the_result_is_the_specifications(case: MoeCase, parts: int) -> None:
    """Padding gives 0, a row of padding alone among it."""
    weights = moe_weights(case)
    model = as_operator(exported(case, weights, parts))
    assert "MoE" in kinds(model) and "Loop" not in kinds(model)
    x, seq_len = np.random.default_rng(3).standard_normal((3, TOKENS, HIDDEN)), np.array([TOKENS, 7, 0])
    y = outputs_of(model, {"x": np.float32(x), "seq_len": seq_len})["y"]
    for row, token in np.ndindex(*x.shape[:2]):
        if token >= seq_len[row]:
            np.testing.assert_array_equal(y[row, token], 0)
            continue
        expected, margin = moe_reference(case, weights, x[row, token])
        if margin > 1e-5:  # elsewhere FP32 may choose another expert
            error = np.abs(y[row, token] - expected).max() / np.abs(expected).max()
            assert error < TOLERANCE, f"{case.name}: {error:.1e}"


def test_a_token_is_the_same_alone() -> None:
    case = replace(CASES[1], experts=16)
    model = as_operator(exported(case, moe_weights(case), 1))
    x = np.random.default_rng(4).standard_normal((1, TOKENS, HIDDEN)).astype(np.float32)
    y = outputs_of(model, {"x": x, "seq_len": np.array([TOKENS])})["y"]
    for token in (0, 11, TOKENS - 1):
        alone = outputs_of(model, {"x": x[:, token : token + 1], "seq_len": np.array([1])})["y"]
        np.testing.assert_allclose(alone[0, 0], y[0, token], rtol=0, atol=TOLERANCE * np.abs(y).max())


def test_experts_of_another_type_stay_in_the_loop() -> None:
    """A graph that stands for another builder's roundings keeps them."""
    case = CASES[0]
    model = exported(case, moe_weights(case), 1)
    stack = model.graph.initializers["w_gate_up"]
    assert stack.const_value is not None
    narrow = ir.Tensor(stack.const_value.numpy().astype(ir.DataType.BFLOAT16.numpy()), name="w_gate_up")
    stack.const_value, stack.type = narrow, ir.TensorType(ir.DataType.BFLOAT16)
    changed = run_passes(model, [AlternateExpertsPass()])
    assert "w_gate_up" in changed.graph.initializers
    assert all("alternates" not in node.attributes for node in changed.graph)
