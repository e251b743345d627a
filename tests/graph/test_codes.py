"""INT8 codes against ONNX Runtime and by the definition; FP8's are in test_quantize.py."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from passes.hand_made import HandMade, normal, outputs_of

from r1trt.graph.codes import FP8_CODES, INT8_CODES, code_type_of
from r1trt.graph.quantize import WeightSource, WeightTensor

INT8 = ir.DataType.INT8


def test_ties_go_to_even_and_ends_saturate_alike() -> None:
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.4, 1e9, -127.5, -128.0, -1e9], np.float32)
    want = [0, 2, 2, 0, -2, 126, 127, 127, -127, -127, -127]
    assert INT8_CODES.codes(values, np.float32(1)).tolist() == want


def test_codes_equal_onnx_runtimes() -> None:
    scale = np.float32(0.0173)
    values = np.clip(normal(0, 64, 64), -127 * scale, 127 * scale)
    graph = HandMade()
    inputs = [graph.input("x", [64, 64]), graph.weight("s", np.array(scale))]
    graph.output(
        graph.node("QuantizeLinear", "q", inputs, [64, 64], domain="", dtype=INT8, output_dtype=int(INT8)),
        "y",
    )
    got = outputs_of(graph.model(), {"x": values})["y"]
    np.testing.assert_array_equal(got, INT8_CODES.codes(values, scale))


def test_the_largest_magnitude_is_the_largest_code() -> None:
    amax = np.array([127.0, 0.0, 1.0, 1e-45], np.float32)
    assert INT8_CODES.scale(amax).tolist() == [1.0, 1.0, np.float32(1 / 127), 1.0]


def test_weights_a_row_are_within_half_a_step() -> None:
    weight = normal(1, 12, 40) * np.linspace(0.1, 9, 12, dtype=np.float32)[:, None]
    amax = np.abs(weight).max(axis=1)
    scales = INT8_CODES.scale(amax)
    source = WeightSource(name="w", parts=(ir.tensor(weight, name="w"),), shape=(12, 40))
    made = WeightTensor(source, INT8, name="w.int8", scale=tuple(map(float, scales))).numpy()
    assert made.dtype == np.int8 and np.abs(made).max(axis=1).tolist() == [127] * 12
    assert (np.abs(made * scales[:, None] - weight) <= 0.5001 * scales[:, None]).all()


def test_types_that_hold_values_are_no_codes() -> None:
    assert code_type_of(INT8) is INT8_CODES
    assert code_type_of(ir.DataType.FLOAT8E4M3FN) is FP8_CODES
    assert code_type_of(ir.DataType.BFLOAT16) is None
