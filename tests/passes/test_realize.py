"""Each realized layer, simulated in ONNX Runtime, against numpy with ml_dtypes roundings."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from passes.hand_made import HandMade, bf16, fp8_grid, normal, outputs_of, plan_of
from passes.typed import simulated_model_from_typed, typed_model_from_plan

from r1trt.errors import PlanError
from r1trt.graph.codes import FP8_CODES
from r1trt.ops.layer_precision import LayerPrecision, Precision
from r1trt.precision.plan import PrecisionPlan

BATCH, K, N = 3, 24, 16
X_SCALE = 0.0123
# A product's own order of additions can move a BF16 result to its neighbour; everything else is exact.
ONE_BF16_STEP = 2.0**-8


def linear(op: str = "R1Linear", **scales: object) -> LayerPrecision:
    return LayerPrecision(
        op=op,
        input="fp8_e4m3",
        weight="fp8_e4m3",
        output="bf16",
        input_scale=X_SCALE,
        reason="test",
        **scales,
    )


def simulated(model: ir.Model, plan: PrecisionPlan, *, optimize: bool = True) -> np.ndarray:
    typed = typed_model_from_plan(model, plan, "tensorrt")
    feeds = {"x": normal(0, BATCH, K)}
    return outputs_of(simulated_model_from_typed(typed), feeds, optimize=optimize)["y"]


def linear_model(weight: np.ndarray, bias: np.ndarray | None = None) -> ir.Model:
    graph = HandMade()
    inputs = [graph.input("x", ["B", K]), graph.weight("w", weight)]
    if bias is not None:
        inputs.append(graph.weight("b", bias))
    op = "R1Linear" if bias is None else "R1LinearBias"
    graph.output(graph.node(op, "proj", inputs, ["B", N]), "y")
    return graph.model()


@pytest.mark.parametrize("optimize", [True, False])
def test_fp8_linear_equals_ml_dtypes(optimize: bool) -> None:
    weight = normal(1, N, K)
    scale = float(FP8_CODES.scale(np.abs(weight).max()))
    model = linear_model(weight)
    got = simulated(model, plan_of(model, {"proj": linear(weight_scale=scale)}), optimize=optimize)
    x = fp8_grid(bf16(normal(0, BATCH, K)), X_SCALE)
    want = bf16(x @ fp8_grid(weight, scale).T)
    np.testing.assert_allclose(got, want, rtol=ONE_BF16_STEP)
    assert (got == bf16(got)).all()


def test_fp8_linear_with_bias_and_a_scale_a_row() -> None:
    weight, bias = normal(1, N, K) * np.linspace(0.1, 4, N, dtype=np.float32)[:, None], normal(2, N)
    scales = FP8_CODES.scale(np.abs(weight).max(axis=1))
    model = linear_model(weight, bias)
    layer = linear("R1LinearBias", weight_scale=tuple(map(float, scales)), weight_axis=0)
    got = simulated(model, plan_of(model, {"proj": layer}))
    x = fp8_grid(bf16(normal(0, BATCH, K)), X_SCALE)
    want = bf16(bf16(x @ fp8_grid(weight, scales[:, None]).T) + bf16(bias))
    np.testing.assert_allclose(got, want, rtol=ONE_BF16_STEP, atol=ONE_BF16_STEP)


def test_weight_only_fp8() -> None:
    weight = normal(1, N, K)
    model = linear_model(weight)
    layer = LayerPrecision(
        op="R1Linear", input="bf16", weight="fp8_e4m3", output="bf16", weight_scale=0.01, reason="test"
    )
    got = simulated(model, plan_of(model, {"proj": layer}))
    want = bf16(bf16(normal(0, BATCH, K)) @ fp8_grid(weight, 0.01).T)
    np.testing.assert_allclose(got, want, rtol=ONE_BF16_STEP)


def int8_grid(values: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """QuantizeLinear saturates at both ends of the type; weights never reach the lower one."""
    return bf16(np.clip(np.rint(values / np.float32(scale)), -128, 127) * np.float32(scale))


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("quantized_input", [True, False])
def test_int8_linear(optimize: bool, by_row: bool, quantized_input: bool) -> None:
    weight = normal(1, N, K)
    scales = (
        np.abs(weight).max(axis=1) / np.float32(127) if by_row else np.float32([np.abs(weight).max() / 127])
    )
    layer = LayerPrecision(
        op="R1Linear",
        input="int8" if quantized_input else "bf16",
        weight="int8",
        output="bf16",
        input_scale=X_SCALE if quantized_input else None,
        weight_scale=tuple(map(float, scales)) if by_row else float(scales[0]),
        weight_axis=0 if by_row else None,
        reason="test",
    )
    model = linear_model(weight)
    got = simulated(model, plan_of(model, {"proj": layer}), optimize=optimize)
    x = bf16(normal(0, BATCH, K))
    x = int8_grid(x, X_SCALE) if quantized_input else x
    want = bf16(x @ int8_grid(weight, scales[:, None]).T)
    np.testing.assert_allclose(got, want, rtol=ONE_BF16_STEP, atol=1e-4)


def test_bf16_norm_is_computed_in_fp32() -> None:
    graph = HandMade()
    gamma = normal(1, K)
    inputs = [graph.input("x", ["B", K]), graph.weight("g", gamma)]
    graph.output(graph.node("R1RMSNorm", "norm", inputs, ["B", K], epsilon=1e-6), "y")
    model = graph.model()
    layer = LayerPrecision(op="R1RMSNorm", input="bf16", weight="fp32", output="bf16", reason="test")
    got = simulated(model, plan_of(model, {"norm": layer}))
    x = bf16(normal(0, BATCH, K)).astype(np.float64)
    want = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * gamma
    np.testing.assert_allclose(got, bf16(want.astype(np.float32)), rtol=ONE_BF16_STEP)
    # Bit for bit nearly everywhere: FP32 inside, and one rounding.
    assert (got == bf16(want.astype(np.float32))).mean() > 0.95


def test_swiglu_rounds_after_each_step() -> None:
    graph = HandMade()
    gate = graph.input("x", ["B", K])
    graph.output(graph.node("R1SwiGLU", "act", [gate, gate], ["B", K]), "y")
    model = graph.model()
    layer = LayerPrecision(op="R1SwiGLU", input="bf16", output="bf16", reason="test")
    got = simulated(model, plan_of(model, {"act": layer}))
    x = bf16(normal(0, BATCH, K))
    want = bf16(bf16(x * bf16(1 / (1 + np.exp(-x)))) * x)
    np.testing.assert_allclose(got, want, rtol=ONE_BF16_STEP)
    assert (got == want).mean() > 0.95


def test_lambda_gate_is_fp32_throughout() -> None:
    graph = HandMade()
    weight, bias = normal(1, 4, K), normal(2, 4)
    inputs = [graph.input("x", ["B", K]), graph.weight("w", weight), graph.weight("b", bias)]
    graph.output(graph.node("R1LambdaGate", "gate", inputs, ["B", 4]), "y")
    model = graph.model()
    layer = LayerPrecision(op="R1LambdaGate", input="bf16", weight="fp32", output="fp32", reason="test")
    got = simulated(model, plan_of(model, {"gate": layer}))
    want = 1 / (1 + np.exp(-(bf16(normal(0, BATCH, K)) @ weight.T + bias)))
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("given", ["bf16", "fp32"])
@pytest.mark.parametrize("made", ["bf16", "fp32"])
def test_a_sum_is_made_in_the_wider_type(given: Precision, made: Precision) -> None:
    graph, other = HandMade(), normal(1, BATCH, K)
    x = graph.input("x", ["B", K])
    term = graph.weight("other", other)
    graph.output(graph.node("Add", "sum", [x, term], ["B", K], domain=""), "y")
    model = graph.model()
    plan = plan_of(model, {"sum": LayerPrecision(op="Add", input=given, output=made, reason="test")})
    add = next(node for node in typed_model_from_plan(model, plan, "tensorrt").graph if node.op_type == "Add")
    wide = "fp32" in (given, made)
    assert add.outputs[0].dtype == (ir.DataType.FLOAT if wide else ir.DataType.BFLOAT16)
    rounded = {"bf16": bf16, "fp32": np.asarray}
    want = rounded[made](rounded[given](normal(0, BATCH, K)) + rounded[given](other))
    np.testing.assert_array_equal(simulated(model, plan), want)


def test_layers_that_read_one_value_share_one_quantization() -> None:
    graph = HandMade()
    x = graph.input("x", ["B", K])
    names = ["q", "k", "v"]
    for name in names:
        weight = graph.weight(f"{name}.w", normal(ord(name), N, K))
        graph.output(graph.node("R1Linear", name, [x, weight], ["B", N]), f"y_{name}")
    model = graph.model()
    typed = typed_model_from_plan(
        model, plan_of(model, {n: linear(weight_scale=0.01) for n in names}), "tensorrt"
    )
    quantize = [node.name for node in typed.graph if node.op_type == "QuantizeLinear"]
    assert quantize == ["q/QuantizeInput"]
    dequantize = [node.name for node in typed.graph if node.op_type == "DequantizeLinear"]
    assert sorted(dequantize) == sorted(
        ["q/DequantizeInput", *(f"{name}/DequantizeWeight" for name in names)]
    )


def test_quantization_nodes_say_their_types() -> None:
    model = linear_model(normal(1, N, K))
    typed = typed_model_from_plan(model, plan_of(model, {"proj": linear(weight_scale=0.01)}), "tensorrt")
    nodes = {node.name: node for node in typed.graph}
    quantize, dequantize = nodes["proj/QuantizeInput"], nodes["proj/DequantizeWeight"]
    assert quantize.attributes["precision"].as_int() == ir.DataType.FLOAT
    assert quantize.attributes["output_dtype"].as_int() == ir.DataType.FLOAT8E4M3FN
    assert dequantize.attributes["output_dtype"].as_int() == ir.DataType.BFLOAT16
    assert {value.dtype for value in (quantize.inputs[1], dequantize.inputs[1])} == {ir.DataType.FLOAT}
    assert nodes["proj/MatMul"].outputs[0].dtype == ir.DataType.BFLOAT16


def test_a_chain_hands_bf16_on_without_casts() -> None:
    graph = HandMade()
    x = graph.input("x", ["B", K])
    first = graph.node("R1Linear", "first", [x, graph.weight("w1", normal(1, K, K))], ["B", K])
    shape = graph.weight("shape", np.array([0, 2, K // 2], np.int64))
    moved = graph.node("Reshape", "moved", [first, shape], ["B", 2, K // 2], domain="")
    total = graph.node("Add", "sum", [moved, moved], ["B", 2, K // 2], domain="")
    graph.output(total, "y")
    model = graph.model()
    add = LayerPrecision(op="Add", input="bf16", output="bf16", reason="test")
    product = LayerPrecision(op="R1Linear", input="bf16", weight="bf16", output="bf16", reason="test")
    typed = typed_model_from_plan(model, plan_of(model, {"first": product, "sum": add}), "tensorrt")
    assert [node.name for node in typed.graph if node.op_type == "Cast"] == [
        "first/CastInput",
        "sum/CastOutput_0",
    ]
    assert typed.graph.outputs[0].name == "y" and typed.graph.outputs[0].dtype == ir.DataType.FLOAT


def test_open_scales_are_refused() -> None:
    model = linear_model(normal(1, N, K))
    with pytest.raises(PlanError, match=r"proj.weight_scale"):
        typed_model_from_plan(model, plan_of(model, {"proj": linear()}), "tensorrt")


def test_the_exported_graph_is_left_as_it_is() -> None:
    model = linear_model(normal(1, N, K))
    before = ir.to_proto(model).SerializeToString()
    typed_model_from_plan(model, plan_of(model, {"proj": linear(weight_scale=0.01)}), "tensorrt")
    assert ir.to_proto(model).SerializeToString() == before
