"""FP8 weights with block scales, streamed, against the whole product."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graph.test_quantize import external

from r1trt.errors import CheckpointError
from r1trt.export.forward import cut, reshape
from r1trt.export.graph import GraphEmitter
from r1trt.graph import quantize
from r1trt.graph.block_scaled import BlockScaledTensor, count_unusable_scales
from r1trt.graph.edit import register
from r1trt.graph.quantize import WeightSource, WeightTensor, weight_amax
from r1trt.graph.weights import is_block_fp8, typed_weight, weight_source_from_value
from r1trt.ops.dequantize_blocks import BLOCKS
from r1trt.ops.operator import DOMAIN, IR_VERSION

FLOAT, BF16 = ir.DataType.FLOAT, ir.DataType.BFLOAT16
SHAPE = (300, 200)
SHAPES = [(300, 200), (128, 128), (256, 128), (1, 1), (129, 127), (5, 260)]


def codes(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32) * 100
    return values.clip(-448, 448).astype(ml_dtypes.float8_e4m3fn)


def scales(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    blocks = [-(-size // 128) for size in shape]
    return np.random.default_rng(1).uniform(1e-4, 1e-2, blocks).astype(np.float32)


def whole(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    rows, columns = (np.arange(size) // 128 for size in shape)
    product: np.ndarray = codes(shape).astype(np.float32) * scales(shape)[rows][:, columns]
    return product


def tensor(directory: Path, shape: tuple[int, int] = SHAPE) -> BlockScaledTensor:
    stored = external(directory, codes(shape)), external(directory, scales(shape), "s")
    return BlockScaledTensor(*stored, columns=shape[1])


@pytest.mark.parametrize("chunk_bytes", [1, 1000, 1 << 24])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows(
    shape: tuple[int, int], chunk_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "CHUNK_BYTES", chunk_bytes)
    made = tensor(tmp_path, shape)
    assert (made.dtype, tuple(made.shape)) == (FLOAT, shape)
    np.testing.assert_array_equal(np.concatenate(list(made.rows())), whole(shape))
    np.testing.assert_array_equal(made.numpy(), whole(shape))
    amax = weight_amax(WeightSource(name="w", parts=(made,), shape=shape), None)
    assert amax == np.abs(whole(shape)).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_body_in_onnx_runtime(shape: tuple[int, int]) -> None:
    emit = GraphEmitter("g", {}, {})
    inputs = [emit.constant("w", codes(shape)), emit.constant("s", scales(shape))]
    (y,) = emit.node(BLOCKS.name, "dequantize", inputs, [(FLOAT, shape)], domain=BLOCKS.domain)
    emit.output(y, "y")
    function = BLOCKS.function()
    model = ir.Model(emit.graph, ir_version=IR_VERSION, functions=[function])
    assert function.domain == DOMAIN
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    np.testing.assert_array_equal(session.run(None, {})[0], whole(shape))


def test_views_and_parts(tmp_path: Path) -> None:
    """Heads of 75 rows are cut across the blocks of 128."""
    emit = GraphEmitter("g", {}, {})
    stored = [register(emit.graph, external(tmp_path, array, name)) for array, name in
              ((codes(), "w.weight"), (scales(), "s"))]  # fmt: skip
    (weight,) = emit.node(BLOCKS.name, "w.dequantize", stored, [(FLOAT, SHAPE)], domain=BLOCKS.domain)
    heads = reshape(emit, "w.heads", weight, [4, 75, 200], (4, 75, 200))
    keys = cut(emit, "w.key", heads, 31, 75, axis=1)
    assert is_block_fp8(keys) and not is_block_fp8(emit.constant("plain", whole()))
    want = whole().reshape(4, 75, 200)[:, 31:]
    np.testing.assert_array_equal(
        np.concatenate(list(weight_source_from_value(keys).chunks())).reshape(want.shape), want
    )
    typed = [typed_weight(emit.graph, value, dtype) for value, dtype in ((weight, FLOAT), (keys, BF16))]
    assert [value.name for value in typed] == ["w.weight.fp32", "w.key.weight.bf16"]
    for value, expected in zip(typed, (whole(), want.astype(BF16.numpy())), strict=True):
        assert value.const_value is not None
        np.testing.assert_array_equal(value.const_value.numpy(), expected)


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "CHUNK_BYTES", 1 << 16)
    made = tensor(tmp_path, (4096, 1024))
    weight = WeightTensor(WeightSource(name="w", parts=(made,), shape=(4096, 1024)), BF16, name="w.bf16")
    tracemalloc.start()
    with (tmp_path / "out.bin").open("wb") as file:
        weight.tofile(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20
    assert (tmp_path / "out.bin").stat().st_size == 2 * 4096 * 1024


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0])
def test_scales_have_to_be_positive(bad: float) -> None:
    spoiled = scales()
    spoiled[1, 1] = bad
    assert count_unusable_scales(spoiled) == 1
    made = BlockScaledTensor(ir.tensor(codes()), ir.tensor(spoiled, name="s"), columns=SHAPE[1])
    with pytest.raises(CheckpointError, match="not positive"):
        list(made.rows())
