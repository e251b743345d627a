"""The last look at a typed graph: untyped values and the forms that builders get wrong are refused."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from passes.hand_made import HandMade, normal

from r1trt.errors import PlanError
from r1trt.passes.check_onnx import CheckOnnxPass
from r1trt.passes.check_traps import CheckTypedPass

BF16, FLOAT, FP8 = ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.FLOAT8E4M3FN
K = 256


def quantized_product(weight_scale: np.ndarray, **weight_attributes: int) -> ir.Model:
    """x quantized by one scale, times a dequantized weight [K,K]."""
    graph = HandMade()
    codes = {"output_dtype": int(FP8), "precision": int(FLOAT)}
    wide = {"output_dtype": int(BF16)}
    x, scale = graph.input("x", [4, K], BF16), graph.weight("s", np.array(0.1, np.float32))
    q = graph.node("QuantizeLinear", "q", [x, scale], [4, K], domain="", dtype=FP8, **codes)
    dq = graph.node("DequantizeLinear", "dq", [q, scale], [4, K], domain="", dtype=BF16, **wide)
    inputs = [
        graph.weight("w", normal(0, K, K).astype(ml_dtypes.float8_e4m3fn)),
        graph.weight("ws", weight_scale),
    ]
    attributes = wide | weight_attributes
    w = graph.node("DequantizeLinear", "wdq", inputs, [K, K], domain="", dtype=BF16, **attributes)
    moved = graph.node("Transpose", "t", [w], [K, K], domain="", dtype=BF16, perm=[1, 0])
    graph.output(graph.node("MatMul", "mm", [dq, moved], [4, K], domain="", dtype=BF16), "y")
    return graph.model()


def test_per_tensor_scales_pass() -> None:
    model = quantized_product(np.array(0.1, np.float32))
    CheckTypedPass()(model)
    CheckOnnxPass()(model)


def test_blocked_weight_scales_with_fp8_activations() -> None:
    scales = np.full((K, K // 128), 0.1, np.float32)
    with pytest.raises(PlanError, match="blocked weight scales and meets quantized activations"):
        CheckTypedPass().call(quantized_product(scales, axis=1, block_size=128))


def test_bf16_scales() -> None:
    scale = np.array(0.1, np.float32).astype(ml_dtypes.bfloat16)
    with pytest.raises(PlanError, match="BFLOAT16 scales"):
        CheckTypedPass().call(quantized_product(scale))


def test_an_output_type_left_open() -> None:
    model = quantized_product(np.array(0.1, np.float32))
    del next(node for node in model.graph if node.name == "dq").attributes["output_dtype"]
    with pytest.raises(PlanError, match="does not say its output type"):
        CheckTypedPass().call(model)


def test_fp8_into_another_operator() -> None:
    graph = HandMade()
    x = graph.input("x", [4], FP8)
    graph.output(graph.node("Cast", "c", [x], [4], domain="", to=int(FLOAT)), "y")
    with pytest.raises(PlanError, match="reads the FP8 tensor"):
        CheckTypedPass().call(graph.model())


@pytest.mark.parametrize("what", ["type", "shape"])
def test_values_without_type_or_shape(what: str) -> None:
    model = quantized_product(np.array(0.1, np.float32))
    value = next(node for node in model.graph if node.name == "mm").inputs[0]
    assert value is not None
    setattr(value, what, None)
    with pytest.raises(PlanError, match=f"has no {what}"):
        CheckTypedPass().call(model)


def test_a_declared_type_that_is_wrong() -> None:
    model = quantized_product(np.array(0.1, np.float32))
    model.graph.outputs[0].type = ir.TensorType(FLOAT)
    with pytest.raises(PlanError, match="not valid ONNX"):
        CheckOnnxPass()(model)
