"""Weights followed back to the tensors of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from r1trt.errors import PlanError
from r1trt.export.forward import cut, reshape
from r1trt.export.graph import GraphEmitter
from r1trt.graph.edit import register
from r1trt.graph.weights import typed_weight, weight_source_from_value

FLOAT, BF16 = ir.DataType.FLOAT, ir.DataType.BFLOAT16
HEADS, ROWS, WIDTH = 3, 5, 4


def views(tensor: ir.TensorProtocol) -> tuple[GraphEmitter, ir.Value, ir.Value]:
    """Rows 0 and 1, and rows 2 to 4, of each of 3 blocks of rows."""
    emit = GraphEmitter("g", {}, {})
    weight = register(emit.graph, tensor)
    shape = [HEADS, ROWS, WIDTH]
    by_head = reshape(emit, "w.heads", weight, shape, tuple(shape))
    return emit, cut(emit, "w.key", by_head, 0, 2, axis=1), cut(emit, "w.value", by_head, 2, ROWS, axis=1)


def array() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(HEADS * ROWS, WIDTH)).astype(np.float32)


def in_file(directory: Path) -> ir.ExternalTensor:
    (directory / "w.bin").write_bytes(b"\1" * 7 + array().tobytes())
    shape = ir.Shape([HEADS * ROWS, WIDTH])
    return ir.ExternalTensor("w.bin", 7, 4 * array().size, FLOAT, shape=shape, name="w", base_dir=directory)


@pytest.mark.parametrize("external", [True, False])
def test_a_slice_of_every_block(external: bool, tmp_path: Path) -> None:
    tensor = in_file(tmp_path) if external else ir.tensor(array(), name="w")
    _, keys, values = views(tensor)
    whole = array().reshape(HEADS, ROWS, WIDTH)
    for value, name, want in ((keys, "w.key.weight", whole[:, :2]), (values, "w.value.weight", whole[:, 2:])):
        source = weight_source_from_value(value)
        assert (source.name, source.shape, len(source.parts)) == (name, want.shape, HEADS)
        assert all(isinstance(part, ir.ExternalTensor) == external for part in source.parts)
        np.testing.assert_array_equal(np.concatenate(list(source.chunks())).reshape(want.shape), want)


def test_both_parts_become_weights_of_their_own(tmp_path: Path) -> None:
    emit, keys, values = views(in_file(tmp_path))
    made = [typed_weight(emit.graph, value, BF16) for value in (keys, values)]
    assert [value.name for value in made] == ["w.key.weight.bf16", "w.value.weight.bf16"]
    want = array().reshape(HEADS, ROWS, WIDTH)[:, 2:].astype(BF16.numpy())
    assert made[1].const_value is not None
    np.testing.assert_array_equal(made[1].const_value.numpy(), want)


def test_what_is_computed_is_no_weight() -> None:
    emit = GraphEmitter("g", {}, {})
    weight = emit.constant("w", array())
    (doubled,) = emit.node("Add", "twice", [weight, weight], [(FLOAT, (HEADS * ROWS, WIDTH))])
    with pytest.raises(PlanError, match="not a tensor of the checkpoint"):
        weight_source_from_value(doubled)
