"""One node of each operator, typed and shaped as an export writes it, and layers for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from r1trt.ops.operator import Operator

FLOAT, BF16, FP8, INT64 = (
    ir.DataType.FLOAT,
    ir.DataType.BFLOAT16,
    ir.DataType.FLOAT8E4M3FN,
    ir.DataType.INT64,
)
Inputs = dict[str, tuple[ir.DataType | None, list[int | str]]]

ROPE: Inputs = {
    "q": (BF16, ["B", "S", 4, 16]),
    "k": (BF16, ["B", "S", 2, 16]),
    "inv_freq": (FLOAT, [4]),
    "past_len": (INT64, ["B"]),
}
ATTENTION: Inputs = {
    "q": (BF16, ["B", "S", 4, 16]),
    "k": (BF16, ["B", "S", 2, 16]),
    "v": (BF16, ["B", "S", 2, 16]),
    "key_cache": (BF16, ["B", 2, 64, 16]),
    "value_cache": (BF16, ["B", 2, 64, 16]),
    "lam": (FLOAT, ["B", "S", 4]),
    "past_len": (INT64, ["B"]),
    "seq_len": (INT64, ["B"]),
}
MOE: Inputs = {
    "x": (BF16, ["B", "S", 32]),
    "seq_len": (INT64, ["B"]),
    "w_router": (FLOAT, [8, 32]),
    "w_gate_up": (FP8, [8, 48, 32]),
    "w_down": (FP8, [8, 32, 24]),
    "shared_gate_up": (FP8, [20, 32]),
    "shared_down": (FP8, [32, 10]),
}
LINEAR: Inputs = {"x": (FLOAT, ["B", "S", 32]), "w": (FLOAT, [48, 32])}
LINEAR_BIAS: Inputs = LINEAR | {"b": (FLOAT, [48])}
NORM: Inputs = {"x": (FLOAT, ["B", "S", 4, 32]), "w": (FLOAT, [32])}
EMBEDDING: Inputs = {"ids": (INT64, ["B", "S"]), "w": (FLOAT, [300, 32])}
SWIGLU: Inputs = {"gate": (FLOAT, ["B", "S", 48]), "up": (FLOAT, ["B", "S", 48])}
GATE: Inputs = {"x": (FLOAT, ["B", "S", 32]), "w": (FLOAT, [4, 32]), "b": (FLOAT, [4])}
SUM: Inputs = {"x": (FLOAT, ["B", "S", 32]), "y": (FLOAT, ["B", "S", 32])}

LATENT: Inputs = {
    "q": (BF16, ["B", "S", 4, 40]),
    "k": (BF16, ["B", "S", 1, 40]),
    "key_cache": (BF16, ["B", 1, 64, 40]),
    "past_len": (INT64, ["B"]),
    "seq_len": (INT64, ["B"]),
}
HEAD_MATMUL: Inputs = {"x": (FLOAT, ["B", "S", 4, 16]), "w": (FLOAT, [4, 16, 32])}
HEAD_LINEAR: Inputs = {"x": (FLOAT, ["B", "S", 4, 16]), "w": (FLOAT, [4, 32, 16])}


def node_of(
    operator: Operator[Any], inputs: Inputs, attributes: Mapping[str, int | float] | None = None
) -> ir.Node:
    """A node with these inputs; those that are not named are absent."""
    values = [
        None
        if name not in inputs
        else ir.Value(
            name=name,
            type=None if inputs[name][0] is None else ir.TensorType(inputs[name][0]),
            shape=ir.Shape(inputs[name][1]),
        )
        for name in operator.inputs
    ]
    return ir.node(operator.name, values, attributes, domain=operator.domain, name="layer")
