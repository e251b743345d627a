"""Weights in blocks: ONNX Runtime's MatMulNBits on our bytes against the product by the definition."""

from __future__ import annotations

import io

import numpy as np
import onnx_ir as ir
import pytest
from passes.hand_made import HandMade, normal, outputs_of, plan_of
from passes.typed import typed_model_from_plan

from r1trt.errors import CheckpointError
from r1trt.graph import quantize
from r1trt.graph.block_codes import BLOCK_SIZES, block_tensors
from r1trt.graph.quantize import WeightSource
from r1trt.graph.weight_grid import Grid
from r1trt.ops.layer_precision import LayerPrecision, Precision

N, K, TOKENS = 24, 80, 5
IDS = np.array([[0, 23, 7], [7, 7, 1]])


def values_of(codes_NGB: np.ndarray, scales_NG: np.ndarray, bits: int) -> np.ndarray:
    """What ONNX Runtime's documentation says that codes stand for, element by element."""
    rows, blocks = scales_NG.shape
    values = []
    for row in range(rows):
        for block in range(blocks):
            codes = [int(byte) for byte in codes_NGB[row, block]]
            if bits == 4:
                codes = [nibble for byte in codes for nibble in (byte % 16, byte // 16)]
            values += [(code - 2 ** (bits - 1)) * float(scales_NG[row, block]) for code in codes]
    return np.array(values).reshape(rows, -1)[:, :K]


def layer_of(weight: Precision, block_size: int, op: str, activation: Precision) -> LayerPrecision:
    return LayerPrecision(
        op=op, input=activation, weight=weight, output="fp32", block_size=block_size, reason="a test"
    )


@pytest.mark.parametrize("block_size", [16, 32, 64])
@pytest.mark.parametrize("code", ["int4", "int8"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["int8", "fp32"])
def test_the_product_is_that_of_the_rounded_weight(
    block_size: int, code: Precision, bias: bool, activation: Precision
) -> None:
    weight, added = normal(1, N, K) * np.linspace(0.1, 4, N, dtype=np.float32)[:, None], normal(2, N)
    graph = HandMade()
    inputs = [graph.input("x", ["B", K]), graph.weight("w", weight)]
    inputs += [graph.weight("b", added)] if bias else []
    op = "R1LinearBias" if bias else "R1Linear"
    graph.output(graph.node(op, "proj", inputs, ["B", N]), "y")
    model = graph.model()
    plan = plan_of(model, {"proj": layer_of(code, block_size, op, activation)})
    typed = typed_model_from_plan(model, plan, "onnxruntime")
    x = normal(0, TOKENS, K)
    got = outputs_of(typed, {"x": x})["y"]
    tensors = {name: value.const_value for name, value in typed.graph.initializers.items()}
    codes, scales = (
        tensors[f"w.{code}_blocks{block_size}{end}"].numpy()
        for end in ("", ".scales")  # type: ignore[union-attr]
    )
    rounded = values_of(codes, scales, 4 if code == "int4" else 8)
    step = np.abs(scales).repeat(block_size, axis=1)[:, :K]
    assert (np.abs(rounded - weight) <= (1.6 if code == "int4" else 0.51) * step).all()
    want = x @ rounded.T + (added if bias else 0)
    # Activations in 8 bits are off by half a step of their block's largest magnitude.
    tolerance = 1e-4 if activation == "fp32" else 0.004 * np.abs(rounded).sum(axis=1).max()
    np.testing.assert_allclose(got, want, atol=tolerance)


def looked_up(block_size: int, *readers: str) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """A typed graph that looks rows of a table up, once a reader, and its results on IDS."""
    table, graph = normal(6, N, K), HandMade()
    w, ids = graph.weight("w", table), graph.input("ids", ["B", "S"], ir.DataType.INT64)
    for name in readers:
        graph.output(graph.node("R1Embedding", name, [ids, w], ["B", "S", K]), f"{name}.rows")
    model = graph.model()
    layer = LayerPrecision(
        op="R1Embedding", input="int64", weight="int8", output="fp32", block_size=block_size, reason="a test"
    )
    typed = typed_model_from_plan(model, plan_of(model, dict.fromkeys(readers, layer)), "onnxruntime")
    return typed, outputs_of(typed, {"ids": IDS})


@pytest.mark.parametrize("block_size", [16, 32, 256])  # 80 columns: no padding, 16 of it, 176 of it
def test_rows_are_those_of_the_rounded_table(block_size: int) -> None:
    typed, got = looked_up(block_size, "embed")
    codes, scales = (
        typed.graph.initializers[f"w.int8_blocks{block_size}{end}"].const_value.numpy()  # type: ignore[union-attr]
        for end in ("", ".scales")
    )
    rounded = values_of(codes, scales, 8)
    assert got["embed.rows"].shape == (*IDS.shape, K) and got["embed.rows"].dtype == np.float32
    # One product in FP32 each.
    np.testing.assert_allclose(got["embed.rows"], rounded[IDS], rtol=1e-6)
    assert "w" not in typed.graph.initializers


def test_readers_of_one_table_share_its_tensors() -> None:
    typed, got = looked_up(32, "first", "second")
    large = [name for name, value in typed.graph.initializers.items() if np.prod(value.shape or (1,)) >= N]
    assert sorted(large) == ["w.int8_blocks32", "w.int8_blocks32.scales"]
    np.testing.assert_array_equal(got["first.rows"], got["second.rows"])


@pytest.mark.parametrize("chunk_bytes", [1, 700, 1 << 20])
@pytest.mark.parametrize("code", ["int4", "int8"])
def test_what_is_streamed_does_not_depend_on_the_chunks(
    code: str, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = normal(3, N, K)
    source = WeightSource(name="w", parts=(ir.tensor(weight, name="w"),), shape=(N, K))
    grid = Grid(code=code, scaling="block", block_size=32)  # type: ignore[arg-type]  # one of both
    want = [tensor.numpy().tobytes() for tensor in block_tensors(source, grid, "w")]
    monkeypatch.setattr(quantize, "CHUNK_BYTES", chunk_bytes)
    for tensor, content in zip(block_tensors(source, grid, "w"), want, strict=True):
        file = io.BytesIO()
        tensor.tofile(file)
        assert file.getvalue() == content and len(content) == tensor.nbytes


@pytest.mark.parametrize("chunk_bytes", [1, 700, 1 << 20])
@pytest.mark.parametrize("code", ["int4", "int8"])
def test_rows_of_a_stack_take_turns(code: str, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tensors that the stack is of, and the chunks that it is read in."""
    monkeypatch.setattr(quantize, "CHUNK_BYTES", chunk_bytes)
    stack = normal(6, 3, N, 64)
    halves = [ir.tensor(half, name="half") for matrix in stack for half in np.split(matrix, 2)]
    grid = Grid(code=code, scaling="block", block_size=32)  # type: ignore[arg-type]  # one of both
    source = WeightSource(name="w", parts=tuple(halves), shape=stack.shape)
    for tensor, plain in zip(
        block_tensors(source, grid, "w", alternates=True), block_tensors(source, grid, "w"), strict=True
    ):
        want = plain.numpy().reshape(3, 2, N // 2, -1).transpose(0, 2, 1, 3).reshape(plain.numpy().shape)
        np.testing.assert_array_equal(tensor.numpy(), want)
        file = io.BytesIO()
        tensor.tofile(file)
        assert file.getvalue() == want.tobytes() and len(want.tobytes()) == tensor.nbytes


def test_a_searched_scale_is_no_worse_than_that_of_the_largest_magnitude() -> None:
    weight = normal(4, N, K)
    source = WeightSource(name="w", parts=(ir.tensor(weight, name="w"),), shape=(N, K))
    codes, scales = block_tensors(source, Grid(code="int4", scaling="block", block_size=16), "w")
    error = np.square(values_of(codes.numpy(), scales.numpy(), 4) - weight).sum()
    blocks = weight.reshape(N, -1, 16)
    step = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2) / -8
    nearest = np.clip(np.rint(blocks / step), -8, 7) * step
    assert error < 0.95 * np.square(nearest - blocks).sum()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(bad: float) -> None:
    weight = normal(5, N, K)
    weight[3, 7] = bad
    source = WeightSource(name="layer.weight", parts=(ir.tensor(weight, name="w"),), shape=(N, K))
    for tensor in block_tensors(source, Grid(code="int8", scaling="block", block_size=32), "w"):
        with pytest.raises(CheckpointError, match="not finite") as caught:
            tensor.tofile(io.BytesIO())
        assert caught.value.details["where"] == "layer.weight"


def test_block_sizes_are_the_operators() -> None:
    assert BLOCK_SIZES == (16, 32, 64, 128, 256)
