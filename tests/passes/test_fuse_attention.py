"""Rotation, cache and attention as one node, against the operators' own bodies and against NumPy.

Legend: B batch, S tokens of this call, C cache capacity, H query heads, Hkv key/value heads, d head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from passes.hand_made import Array, HandMade, normal, outputs_of

from r1trt.passes.fuse_attention import FuseAttentionPass
from r1trt.passes.pipeline import run_passes
from r1trt.passes.set_bodies import SetBodiesPass

B, H, HKV, D, CAPACITY = 3, 4, 2, 32, 24
FLOAT, FLOAT16, INT64 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT64
# Tokens in the cache of each row, and S: first calls, later ones, mixed ones, single tokens, the end.
CALLS: dict[str, tuple[Sequence[int], int]] = {
    "first": ((0, 0, 0), 7),
    "later": ((5, 5, 5), 6),
    "mixed": ((9, 0, 4), 5),
    "one token": ((9, 0, 4), 1),
    "one first token": ((0, 0, 0), 1),
    "to the end": ((20, 0, 11), 4),
}


def graph_of(
    *, d: int = D, rotary: int = D, packed: bool = False, rope: Any = None, **attention: Any
) -> ir.Model:
    """A layer's attention: q, k and v side by side, heads, rotation, cache, heads side by side."""
    graph = HandMade()
    past, seq = (graph.input(name, ["B"], INT64) for name in ("past_len", "seq_len"))
    widths = [count * d for count in (H, HKV, HKV)]
    parts = [graph.input(name, ["B", "S", width]) for name, width in zip("qkv", widths, strict=True)]
    if packed:
        whole = graph.node("Concat", "whole", parts, ["B", "S", sum(widths)], domain="", axis=-1)
        first = graph.node(
            "Split",
            "cut",
            [whole, graph.weight("widths", np.array(widths))],
            ["B", "S", widths[0]],
            domain="",
            axis=-1,
        )
        cut = graph.graph.node("cut")
        cut.resize_outputs(3)
        for output, width, name in zip(cut.outputs[1:], widths[1:], "kv", strict=True):
            output.name, output.type = f"cut/{name}", ir.TensorType(ir.DataType.FLOAT)
            output.shape = ir.Shape(["B", "S", width])
        parts = [first, *cut.outputs[1:]]
    heads = [
        heads_of(graph, f"{name}_heads", part, count, d)
        for name, part, count in zip("qkv", parts, (H, HKV, HKV), strict=True)
    ]
    inv_freq = graph.weight("inv_freq", (1 / 100 ** (np.arange(rotary // 2) * 2 / rotary)).astype(np.float32))
    q = graph.node("R1DynamicRoPE", "rope", [*heads[:2], inv_freq, past], ["B", "S", H, d], **(rope or {}))
    k = second_output(graph, "rope", ["B", "S", HKV, d])
    held = attention.pop("held", FLOAT)
    caches = [graph.input(name, ["B", HKV, CAPACITY, d], held) for name in ("key_cache", "value_cache")]
    lam = graph.input("lam", ["B", "S", H]) if attention.pop("gate", False) else None
    y = graph.node(
        "R1HLAAttention",
        "attention",
        [q, k, heads[2], *caches, lam, past, seq],
        ["B", "S", H, d],
        **attention,
    )
    attend = graph.graph.node("attention")
    attend.resize_outputs(3)
    shape = graph.weight("merged", np.array([0, 0, H * d]))
    graph.output(graph.node("Reshape", "merge", [y, shape], ["B", "S", H * d], domain=""), "y")
    for output, name in zip(attend.outputs[1:], ("key_cache_out", "value_cache_out"), strict=True):
        output.type, output.shape = ir.TensorType(held), ir.Shape(["B", HKV, CAPACITY, d])
        graph.output(output, name)
    return graph.model()


def heads_of(graph: HandMade, name: str, value: ir.Value, count: int, d: int) -> ir.Value:
    shape = graph.weight(f"{name}.shape", np.array([0, 0, count, d]))
    return graph.node("Reshape", name, [value, shape], ["B", "S", count, d], domain="")


def second_output(graph: HandMade, name: str, dims: Sequence[int | str]) -> ir.Value:
    node = graph.graph.node(name)
    node.resize_outputs(2)
    output = node.outputs[1]
    output.name, output.type, output.shape = f"{name}/out.1", ir.TensorType(ir.DataType.FLOAT), ir.Shape(dims)
    return output


def feeds_of(past: Sequence[int], tokens: int, d: int = D) -> dict[str, Array]:
    widths = [count * d for count in (H, HKV, HKV)]
    feeds: dict[str, Array] = {
        name: normal(i, B, tokens, width) for i, (name, width) in enumerate(zip("qkv", widths, strict=True))
    }
    caches = {name: normal(7, B, HKV, CAPACITY, d) for name in ("key_cache", "value_cache")}
    return {**feeds, **caches, "past_len": np.array(past), "seq_len": np.full(B, tokens)}


FUSED: dict[str, dict[str, Any]] = {
    "plain": {},
    "packed": {"packed": True},
    "scaled": {"scale": 0.4},
    "interleaved": {"rope": {"interleaved": 1}},
    "partial": {"rotary": 16},
    "partial and packed": {"rotary": 16, "packed": True},
    "attention factor": {"rope": {"attention_factor": 1.25}},
    "larger heads": {"d": 80, "rotary": 64},
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("case", FUSED)
def test_the_fused_node_gives_what_the_bodies_give(case: str, call: str) -> None:
    past, tokens = CALLS[call]
    model, d = graph_of(**FUSED[case]), FUSED[case].get("d", D)
    fused = run_passes(model, [FuseAttentionPass()])
    nodes = {node.op_type for node in fused.graph}
    assert "GroupQueryAttention" in nodes and not nodes & {
        "R1DynamicRoPE",
        "R1HLAAttention",
        "Reshape",
        "Split",
    }
    feeds = feeds_of(past, tokens, d)
    got, want = outputs_of(fused, feeds), outputs_of(run_passes(model, [SetBodiesPass("onnxruntime")]), feeds)
    np.testing.assert_allclose(got["y"], want["y"], atol=3e-6)
    for row, length in enumerate(past):
        for name in ("key_cache_out", "value_cache_out"):
            known = slice(0, length + tokens)
            np.testing.assert_allclose(got[name][row, :, known], want[name][row, :, known], atol=1e-6)


# A rounding to FP16 changes a number by 2^-11 of itself at most. Between them lie six: the values that enter,
# cosines and sines, the two sums of a rotated pair, the result; elements reach 4, and scores move as they do.
HALF_TOLERANCE = 6 * 4 * 2.0**-11


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_cache_in_fp16_is_read_and_written_by_the_fused_node(packed: bool, call: str) -> None:
    past, tokens = CALLS[call]
    fused = run_passes(graph_of(packed=packed, held=FLOAT16), [FuseAttentionPass()])
    assert "GroupQueryAttention" in {node.op_type for node in fused.graph}
    feeds = feeds_of(past, tokens)
    halves = {name: feeds[name].astype(np.float16) for name in ("key_cache", "value_cache")}
    got = outputs_of(fused, {**feeds, **halves})
    widened = {name: half.astype(np.float32) for name, half in halves.items()}
    want = outputs_of(run_passes(graph_of(), [FuseAttentionPass()]), {**feeds, **widened})
    assert got["y"].dtype == np.float32 and got["key_cache_out"].dtype == np.float16
    np.testing.assert_allclose(got["y"], want["y"], atol=HALF_TOLERANCE)
    for row, length in enumerate(past):
        for name in ("key_cache_out", "value_cache_out"):
            known = slice(0, length + tokens)
            np.testing.assert_allclose(
                got[name][row, :, known].astype(np.float32),
                want[name][row, :, known],
                atol=HALF_TOLERANCE,
            )


@pytest.mark.parametrize("call", CALLS)
def test_the_fused_node_is_attention_by_the_definition(call: str) -> None:
    past, tokens = CALLS[call]
    feeds = feeds_of(past, tokens)
    got = outputs_of(run_passes(graph_of(packed=True), [FuseAttentionPass()]), feeds)["y"]
    np.testing.assert_allclose(got, attention_by_definition(feeds), atol=1e-5)


def attention_by_definition(feeds: dict[str, Array]) -> Array:
    """Softmax of scaled scores over each query's own position and what lies before it; [B,S,H*d]."""
    tokens = feeds["q"].shape[1]
    q, k, v = (feeds[name].reshape(B, tokens, -1, D).astype(np.float64) for name in "qkv")
    y = np.zeros((B, tokens, H, D))
    for row, past in enumerate(feeds["past_len"]):
        position = past + np.arange(tokens)
        keys, values = (feeds[f"{name}_cache"][row, :, :past].transpose(1, 0, 2) for name in ("key", "value"))
        keys = np.concatenate([keys, rotated(k[row], position)])
        values = np.concatenate([values, v[row]])
        turned = rotated(q[row], position)
        for token, at in enumerate(position):
            for head in range(H):
                scores = keys[: at + 1, head // (H // HKV)] @ turned[token, head] / np.sqrt(D)
                weights = np.exp(scores - scores.max())
                y[row, token, head] = weights / weights.sum() @ values[: at + 1, head // (H // HKV)]
    return y.reshape(B, tokens, H * D)


def rotated(x: Array, position: Array) -> Array:
    """X [S,heads,d] turned by halves."""
    angle = (position[:, None] / 100 ** (np.arange(D // 2) * 2 / D))[:, None]
    one, two = x[..., : D // 2], x[..., D // 2 :]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([one * cos - two * sin, two * cos + one * sin], axis=-1)


def test_lengths_and_tables_are_made_once() -> None:
    """Two layers share them, and the products' result is read without being cut."""
    fused = run_passes(graph_of(packed=True), [FuseAttentionPass()])
    kinds = [node.op_type for node in fused.graph]
    assert kinds == [
        "Concat",
        "Shape",
        "Add",
        "Sub",
        "ReduceMax",
        "Sub",
        *["Cast"] * 3,
        "GroupQueryAttention",
    ]
    (node,) = (node for node in fused.graph if node.op_type == "GroupQueryAttention")
    assert node.name == "attention/GroupQueryAttention" and node.inputs[1] is None and node.inputs[2] is None
    tables = {
        name: value.shape for name, value in fused.graph.initializers.items() if name.startswith("inv_freq")
    }
    assert tables == {f"inv_freq.{name}": ir.Shape([CAPACITY, D // 2]) for name in ("cos", "sin")}


KEPT: dict[str, dict[str, Any]] = {
    "a gate": {"gate": True},
    "a temperature": {"rope": {"temperature_alpha": 0.1, "original_max_position": 8}},
    "narrow heads": {"d": 8, "rotary": 8},
    "a rotary size that is no multiple of 16": {"rotary": 8},
}


@pytest.mark.parametrize("case", KEPT)
def test_what_the_operator_does_not_compute_keeps_its_body(case: str) -> None:
    model = graph_of(**KEPT[case])
    kept = run_passes(model, [FuseAttentionPass()])
    assert [node.name for node in kept.graph] == [node.name for node in model.graph]
