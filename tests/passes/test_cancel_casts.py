"""Casts around nodes that only move elements."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import RemoveUnusedNodesPass

from r1trt.passes.cancel_casts import CancelCastsPass


def operators_after(text: str) -> list[str]:
    header = '<ir_version: 12, opset_import: ["" : 24]>'
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(f"{header} g {text}"))
    model = ir.from_proto(proto)
    CancelCastsPass()(model)
    RemoveUnusedNodesPass()(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (
            "(bfloat16[2,3] a) => (bfloat16[2,2] y) {p = Cast<to=1>(a) "
            "s = Constant<value_ints=[0]>() e = Constant<value_ints=[2]>() t = Constant<value_ints=[1]>() "
            "c = Slice(p, s, e, t) y = Cast<to=16>(c)}",
            ["Constant", "Constant", "Constant", "Slice"],
        ),
        (
            "(bfloat16[2,3] a, bfloat16[2,5] b) => (bfloat16[2,8] y) "
            "{p = Cast<to=1>(a) q = Cast<to=1>(b) c = Concat<axis=1>(p, q) y = Cast<to=16>(c)}",
            ["Concat"],
        ),
        (
            "(bfloat16[2,3] a, float[2,5] q) => (bfloat16[2,8] y) "
            "{p = Cast<to=1>(a) c = Concat<axis=1>(p, q) y = Cast<to=16>(c)}",
            ["Cast", "Concat", "Cast"],
        ),
    ],
    ids=["slice", "concat", "concat of one wide part"],
)
def test_moves(text: str, left: list[str]) -> None:
    assert operators_after(text) == left
