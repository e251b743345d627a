"""The simulation's roundings, bit for bit against ml_dtypes, with ONNX Runtime's optimizations on and off."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from passes.hand_made import HandMade, bf16, normal, outputs_of
from passes.typed import simulated_model_from_typed

from r1trt.errors import BuildError

BF16, FLOAT, FP8 = ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.FLOAT8E4M3FN
D = 32


def chain() -> ir.Model:
    """BF16 in, Mul, Transpose, Add of a BF16 weight, Sub, Cast to FLOAT out."""
    graph = HandMade()
    plain = {"domain": "", "dtype": BF16}
    x = graph.input("x", [D, D], BF16)
    weight = graph.weight("w", normal(1, D, D).astype(ml_dtypes.bfloat16))
    squared = graph.node("Mul", "mul", [x, x], [D, D], **plain)
    moved = graph.node("Transpose", "move", [squared], [D, D], perm=[1, 0], **plain)
    total = graph.node("Add", "add", [moved, weight], [D, D], **plain)
    graph.output(graph.node("Sub", "sub", [total, x], [D, D], **plain), "y")
    return graph.model()


@pytest.mark.parametrize("optimize", [True, False])
def test_a_bf16_chain_is_bit_exact(optimize: bool) -> None:
    x, w = bf16(normal(0, D, D)), bf16(normal(1, D, D))
    got = outputs_of(simulated_model_from_typed(chain()), {"x": x}, optimize=optimize)["y"]
    want = bf16(bf16(bf16(x * x).T + w) - x)
    np.testing.assert_array_equal(got, want)
    unrounded = (x * x).T + w - x
    assert (bf16(unrounded) != want).any(), "the chain has to tell single from repeated rounding"


def test_the_roundings_survive_onnx_runtimes_optimizations() -> None:
    model = simulated_model_from_typed(chain())
    assert sum(node.op_type == "Cast" and node.outputs[0].dtype == BF16 for node in model.graph) == 3


@pytest.mark.parametrize("optimize", [True, False])
def test_fp8_stays_fp8(optimize: bool) -> None:
    graph = HandMade()
    x, scale = graph.input("x", [D, D], BF16), graph.weight("s", np.array(0.011, np.float32))
    codes = graph.node(
        "QuantizeLinear",
        "q",
        [x, scale],
        [D, D],
        domain="",
        dtype=FP8,
        precision=int(FLOAT),
        output_dtype=int(FP8),
    )
    back = graph.node(
        "DequantizeLinear", "dq", [codes, scale], [D, D], domain="", dtype=BF16, output_dtype=int(BF16)
    )
    graph.output(back, "y")
    x_value = bf16(normal(0, D, D) * 3)
    got = outputs_of(simulated_model_from_typed(graph.model()), {"x": x_value}, optimize=optimize)["y"]
    scaled = np.clip(x_value / np.float32(0.011), -448, 448).astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(got, bf16(scaled.astype(np.float32) * np.float32(0.011)))


def test_cast_like_follows_the_typed_graph() -> None:
    graph = HandMade()
    x, like = graph.input("x", [D], FLOAT), graph.input("like", [1], BF16)
    graph.output(graph.node("CastLike", "c", [x, like], [D], domain="", dtype=BF16), "y")
    feeds = {"x": normal(0, D), "like": np.zeros(1, np.float32)}
    got = outputs_of(simulated_model_from_typed(graph.model()), feeds)["y"]
    np.testing.assert_array_equal(got, bf16(feeds["x"]))


def test_a_value_without_a_type_is_an_error() -> None:
    graph = HandMade()
    x = graph.input("x", [D], BF16)
    unknown = graph.node("NoSuchOperator", "n", [x], [D], domain="elsewhere", dtype=BF16)
    unknown.type = None
    graph.graph.opset_imports["elsewhere"] = 1
    graph.output(graph.node("Identity", "i", [unknown], [D], domain="", dtype=BF16), "y")
    graph.graph.outputs[0].type = ir.TensorType(BF16)
    with pytest.raises(BuildError, match="NoSuchOperator"):
        simulated_model_from_typed(graph.model())
