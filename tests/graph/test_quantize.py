"""Weight quantization, bit for bit against ml_dtypes and ONNX Runtime, and streaming against one piece."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from passes.hand_made import HandMade, fp8_codes, normal, outputs_of

from r1trt.errors import CheckpointError, PlanError
from r1trt.graph import quantize
from r1trt.graph.codes import FP8_CODES
from r1trt.graph.quantize import (
    WeightSource,
    WeightTensor,
    weight_amax,
)

FLOAT, BF16, FP8 = ir.DataType.FLOAT, ir.DataType.BFLOAT16, ir.DataType.FLOAT8E4M3FN
SHAPE = (6, 5, 7)


def external(directory: Path, array: np.ndarray, name: str = "w", offset: int = 13) -> ir.ExternalTensor:
    """An array in a file, at an odd offset."""
    path = directory / f"{name}.bin"
    path.write_bytes(b"\1" * offset + array.tobytes())
    dtype = ir.DataType.from_numpy(array.dtype)
    return ir.ExternalTensor(
        path.name, offset, array.nbytes, dtype, shape=ir.Shape(array.shape), name=name, base_dir=directory
    )


def source(*parts: ir.TensorProtocol, shape: tuple[int, ...] = SHAPE) -> WeightSource:
    return WeightSource(name="w", parts=parts, shape=shape)


def test_every_e4m3_value_and_every_tie() -> None:
    codes = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    finite = np.sort(codes[np.isfinite(codes)])
    values = np.concatenate([finite, (finite[1:] + finite[:-1]) / 2])
    got = FP8_CODES.codes(values, np.float32(1)).astype(np.float32)
    assert (got[: len(finite)] == finite).all()
    below, above = finite[:-1], finite[1:]
    even = np.where(below.astype(ml_dtypes.float8_e4m3fn).view(np.uint8) % 2 == 0, below, above)
    assert (got[len(finite) :] == even).all()


def test_saturation() -> None:
    got = FP8_CODES.codes(np.array([449, 1e9, -1e9, np.inf], np.float32), np.float32(1))
    assert got.astype(np.float32).tolist() == [448, 448, -448, 448]


def test_quantization_equals_onnx_runtimes() -> None:
    values, scale = normal(0, 64, 64) * 9, np.float32(0.0173)
    graph = HandMade()
    inputs = [graph.input("x", [64, 64]), graph.weight("s", np.array(scale))]
    codes = graph.node(
        "QuantizeLinear",
        "q",
        inputs,
        [64, 64],
        domain="",
        dtype=FP8,
        precision=int(FLOAT),
        output_dtype=int(FP8),
    )
    graph.output(graph.node("Cast", "c", [codes], [64, 64], domain="", to=int(FLOAT)), "y")
    got = outputs_of(graph.model(), {"x": values})["y"]
    np.testing.assert_array_equal(got, FP8_CODES.codes(values, scale).astype(np.float32))


def test_scales() -> None:
    amax = np.array([448.0, 0.0, 1.0, 1e-45], np.float32)
    assert FP8_CODES.scale(amax).tolist() == [1.0, 1.0, np.float32(1 / 448), 1.0]


@pytest.mark.parametrize("chunk_bytes", [1, 64, 1 << 20])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_amax_and_codes_do_not_depend_on_the_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, dtype: type
) -> None:
    monkeypatch.setattr(quantize, "CHUNK_BYTES", chunk_bytes)
    array = normal(3, *SHAPE).astype(dtype)
    weights = source(external(tmp_path, array))
    wide = array.astype(np.float32)
    assert weight_amax(weights, None) == np.abs(wide).max()
    per_index = np.abs(wide).max(axis=(1, 2))
    np.testing.assert_array_equal(weight_amax(weights, 0), per_index)
    scales = FP8_CODES.scale(per_index)
    tensor = WeightTensor(weights, FP8, name="w.fp8", scale=tuple(map(float, scales)))
    want = fp8_codes(wide, scales[:, None, None])
    np.testing.assert_array_equal(tensor.numpy().view(np.uint8), want.view(np.uint8))
    file = io.BytesIO()
    tensor.tofile(file)
    assert file.getvalue() == want.tobytes() == tensor.tobytes()


def test_memory_is_bounded_by_the_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "CHUNK_BYTES", 1 << 20)
    array = normal(0, 4096, 2048)
    weights = source(external(tmp_path, array), shape=array.shape)
    tensor = WeightTensor(weights, FP8, name="w.fp8", scale=0.01)
    size = array.nbytes
    del array
    tracemalloc.start()
    try:
        weight_amax(weights, None)
        with (tmp_path / "out").open("wb") as file:
            tensor.tofile(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size / 4


def test_stacked_parts(tmp_path: Path) -> None:
    parts = [normal(seed, 2, 7) for seed in range(3)]
    weights = source(*(external(tmp_path, part, f"p{i}") for i, part in enumerate(parts)), shape=(3, 2, 7))
    np.testing.assert_array_equal(WeightTensor(weights, FLOAT, name="w").numpy(), np.stack(parts))


def test_conversion_to_bf16_rounds_to_nearest_even() -> None:
    array = normal(0, 4, 4)
    tensor = WeightTensor(source(ir.tensor(array, name="w"), shape=(4, 4)), BF16, name="w.bf16")
    np.testing.assert_array_equal(
        tensor.numpy().view(np.uint16), array.astype(ml_dtypes.bfloat16).view(np.uint16)
    )


def test_transposed() -> None:
    array = normal(0, 4, 6)
    tensor = WeightTensor(
        source(ir.tensor(array, name="w"), shape=(4, 6)), FLOAT, name="w.t", transposed=True
    )
    assert tuple(tensor.shape) == (6, 4)
    np.testing.assert_array_equal(tensor.numpy(), array.T)


def test_a_truncated_file(tmp_path: Path) -> None:
    tensor = external(tmp_path, normal(0, *SHAPE))
    path = tmp_path / "w.bin"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="too short"):
        weight_amax(source(tensor), None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value: float) -> None:
    array = normal(0, *SHAPE)
    array[3, 2, 1] = value
    with pytest.raises(CheckpointError, match="not finite"):
        weight_amax(source(ir.tensor(array, name="w")), 0)


def test_scales_of_another_length() -> None:
    with pytest.raises(PlanError, match="differ in length"):
        WeightTensor(source(ir.tensor(normal(0, *SHAPE), name="w")), FP8, name="q", scale=(1.0, 2.0))
