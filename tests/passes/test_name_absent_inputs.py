"""Operators as TensorRT's parser wants them, and back."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from passes.hand_made import HandMade

from r1trt.errors import BuildError
from r1trt.ops.hla_attention import HLA_ATTENTION
from r1trt.passes.name_absent_inputs import (
    INPUT_MASK,
    CheckPluginTypesPass,
    NameAbsentInputsPass,
    RestoreAbsentInputsPass,
)
from r1trt.passes.pipeline import run_passes

BF16, FLOAT, INT64 = ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.INT64
ROWS = ["B", "S", 4, 16]
PRESENT = ("q", "k", "v", "past_len", "seq_len")


def attention(dtype: ir.DataType) -> ir.Model:
    """Attention without a cache and without a gate."""
    graph = HandMade()
    values = {name: graph.input(name, ROWS, dtype) for name in ("q", "k", "v")}
    values |= {name: graph.input(name, ["B"], INT64) for name in ("past_len", "seq_len")}
    inputs = [values.get(name) for name in HLA_ATTENTION.inputs]
    graph.output(graph.node(HLA_ATTENTION.name, "attention", inputs, ROWS, dtype=dtype), "y")
    return graph.model()


def input_names(model: ir.Model) -> list[str | None]:
    (node,) = model.graph
    return [None if value is None else value.name for value in node.inputs]


def test_the_mask_names_the_inputs_that_are_left() -> None:
    named = run_passes(attention(BF16), [NameAbsentInputsPass()])
    assert input_names(named) == list(PRESENT)
    (node,) = named.graph
    mask = node.attributes[INPUT_MASK].as_int()
    assert tuple(name for bit, name in enumerate(HLA_ATTENTION.inputs) if mask >> bit & 1) == PRESENT
    assert not NameAbsentInputsPass()(named).modified, "a second run finds nothing to do"


def test_absent_inputs_come_back() -> None:
    model = attention(BF16)
    restored = run_passes(model, [NameAbsentInputsPass(), RestoreAbsentInputsPass()])
    assert input_names(restored) == input_names(model)
    (node,) = restored.graph
    assert INPUT_MASK not in node.attributes


def test_a_type_without_a_kernel_is_refused() -> None:
    CheckPluginTypesPass()(attention(BF16))
    with pytest.raises(BuildError, match="does not compute in this type"):
        CheckPluginTypesPass().call(attention(FLOAT))
