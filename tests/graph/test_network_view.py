"""A network's layers by the plan's keys, on networks written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from r1trt.graph.network_view import NetworkView, plan_key


def layer(kind: str, node: str, inputs: list[tuple[str, str]], output: tuple[str, str]) -> dict[str, Any]:
    return {"name": output[0], "type": kind, "node": node, "inputs": inputs, "outputs": [output]}


NETWORK = [
    layer("QUANTIZE", "proj/QuantizeInput", [("x", "BF16"), ("s", "FLOAT")], ("q", "FP8")),
    layer("DEQUANTIZE", "proj/DequantizeInput", [("q", "FP8"), ("s", "FLOAT")], ("dq", "BF16")),
    layer("DEQUANTIZE", "proj/DequantizeWeight", [("w8", "FP8"), ("t", "FLOAT")], ("w", "BF16")),
    layer("SHUFFLE", "proj/TransposeWeight", [("w", "BF16")], ("wt", "BF16")),
    layer("MATRIX_MULTIPLY", "proj/MatMul", [("dq", "BF16"), ("wt", "BF16")], ("y", "BF16")),
    layer("CAST", "proj/CastOutput", [("y", "BF16")], ("yf", "FLOAT")),
    layer("ROTARY_EMBEDDING", "rope/Rotary", [("yf", "FLOAT")], ("r", "FLOAT")),
    layer("CAST", "rope/CastLike", [("r", "FLOAT")], ("rb", "BF16")),
    layer("CAST", "rope/CastOutput_0", [("rb", "BF16")], ("rf", "FLOAT")),
    layer("PLUGIN_V3", "attend", [("rf", "FLOAT")], ("a", "BF16")),
    layer("CONSTANT", "", [], ("c", "HALF")),
]
VIEW = NetworkView(NETWORK, ["proj", "rope", "attend"])


def test_a_product_is_read_through_dequantizations_and_moves() -> None:
    parts = VIEW.parts("proj")
    found = parts.product_types(parts.products)
    assert found == {"input": "fp8_e4m3", "weight": "fp8_e4m3", "output": "bf16"}


def test_casts_behind_a_layer_serve_its_users() -> None:
    parts = VIEW.parts("rope")
    assert parts.outputs("ROTARY_EMBEDDING") == "fp32" and parts.last_output == "bf16"
    assert VIEW.parts("proj").last_output == "bf16"


def test_plugins_are_found() -> None:
    assert VIEW.parts("proj").plugin is None
    plugin = VIEW.parts("attend").plugin
    assert plugin is not None and plugin["outputs"] == [("a", "BF16")]


def test_what_is_not_there_is_nothing() -> None:
    parts = NetworkView(NETWORK, ["head"]).parts("head")
    assert parts.last_output == parts.outputs("GATHER") == "nothing"
    assert set(parts.product_types(parts.products).values()) == {"nothing"}


@pytest.mark.parametrize(
    ("node", "key"),
    [("a.b", "a.b"), ("a.b/MatMul", "a.b"), ("a.b/c/d", "a.b"), ("a", None), ("a.bc", None), (None, None)],
)
def test_a_node_leads_to_its_key(node: str | None, key: str | None) -> None:
    assert plan_key(node, {"a.b": 1}) == key
