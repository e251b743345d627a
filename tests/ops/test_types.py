"""Which types a plan may give a layer: the rules give usable ones, all others are refused with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from ops.nodes import (
    ATTENTION,
    EMBEDDING,
    GATE,
    HEAD_LINEAR,
    HEAD_MATMUL,
    LATENT,
    LINEAR,
    LINEAR_BIAS,
    MOE,
    NORM,
    ROPE,
    SUM,
    SWIGLU,
    Inputs,
    node_of,
)
from ops.nodes import FP8 as FP8_CODES

from r1trt.errors import PlanError
from r1trt.ops.layer_precision import PRECISIONS, LayerPrecision
from r1trt.ops.operator import Operator
from r1trt.ops.registry import LAYER_OPERATORS, OPERATORS, layer_operator_of, operator_of_layer

INPUTS: dict[str, Inputs] = {
    "R1Embedding": EMBEDDING,
    "R1RMSNorm": NORM,
    "R1Linear": LINEAR,
    "R1LinearBias": LINEAR_BIAS,
    "R1SwiGLU": SWIGLU,
    "R1LambdaGate": GATE,
    "R1HeadMatMul": HEAD_MATMUL,
    "R1HeadLinear": HEAD_LINEAR,
    "Add": SUM,
    "R1DynamicRoPE": ROPE,
    "R1HLAAttention": ATTENTION,
    "R1DynamicMoE": MOE,
}
# Input, weight and output that a plan may give: B bf16, F fp32, 8 fp8_e4m3, i int8, n int4 (only in blocks),
# I int64, - none.
ALLOWED = {
    "R1Embedding": "IBB IBF IFB IFF",
    "R1RMSNorm": "BFB BFF FFB FFF",
    "R1Linear": "88B 88F B8B B8F F8B F8F iiB iiF BiB BiF FiB FiF BBB BBF FFB FFF",
    "R1LinearBias": "88B 88F B8B B8F F8B F8F iiB iiF BiB BiF FiB FiF BBB BBF FFB FFF",
    "R1SwiGLU": "B-B B-F F-B F-F",
    "R1LambdaGate": "BFF FFF",
    "R1HeadMatMul": "BBB BBF FFB FFF",
    "R1HeadLinear": "BBB BBF FFB FFF",
    "Add": "B-B B-F F-B F-F",
    "R1DynamicRoPE": "B-B F-F",
    "R1HLAAttention": "B-B F-F",
    "R1DynamicMoE": "88B 88F BBB FFF",
}
LETTERS = {"bf16": "B", "fp32": "F", "fp8_e4m3": "8", "int8": "i", "int4": "n", "int64": "I", None: "-"}


def test_a_table_in_blocks_is_usable() -> None:
    operator = operator_of_layer(TABLE)
    assert not list(operator.problems(TABLE)) and not operator.missing_scales(TABLE)


def every_layer(operator: Operator[Any]) -> Iterator[tuple[str, LayerPrecision]]:
    for types in product(PRECISIONS, (*PRECISIONS, None), PRECISIONS):
        layer = LayerPrecision(op=operator.name, input=types[0], weight=types[1], output=types[2], reason="x")
        yield "".join(LETTERS[name] for name in types), layer


def test_every_operator_is_here() -> None:
    assert set(INPUTS) == set(ALLOWED) == set(LAYER_OPERATORS)
    assert set(OPERATORS) <= set(LAYER_OPERATORS)


@pytest.mark.parametrize("name", ALLOWED)
def test_types_are_usable_or_refused(name: str) -> None:
    operator = LAYER_OPERATORS[name]
    found = [types for types, layer in every_layer(operator) if not list(operator.problems(layer))]
    assert sorted(found) == sorted(ALLOWED[name].split())


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize(("activation", "fp8"), [("bf16", True), ("bf16", False), ("fp32", False)])
def test_the_rules_give_usable_layers(name: str, activation: Any, fp8: bool) -> None:
    node = node_of(LAYER_OPERATORS[name], INPUTS[name])
    operator = layer_operator_of(node)
    assert operator is LAYER_OPERATORS[name]
    layer = operator.default_layer(node, activation, fp8=fp8)
    assert operator_of_layer(layer) is operator
    assert not list(operator.problems(layer)) and not list(operator.node_problems(node, layer))
    assert bool(operator.missing_scales(layer)) == bool(fp8 and operator.weight_scales)


@pytest.mark.parametrize("name", INPUTS)
def test_weights_with_scales_are_found_by_name(name: str) -> None:
    operator = LAYER_OPERATORS[name]
    node = node_of(operator, INPUTS[name])
    weights = operator.scaled_weights(node, by_row=True)
    assert tuple(weights) == operator.weight_scales
    parts = {scale: [(part.value.name, part.axis) for part in found] for scale, found in weights.items()}
    if name == "R1DynamicMoE":
        assert parts == {
            "weight_scale": [("w_gate_up", 0), ("shared_gate_up", None)],
            "down_scale": [("w_down", 0), ("shared_down", None)],
        }
    elif weights:
        assert parts == {"weight_scale": [("w", 0)]}


TABLE = LayerPrecision(
    op="R1Embedding", input="int64", weight="int8", output="fp32", block_size=32, reason="x"
)
MOE_LAYER = LayerPrecision(
    op="R1DynamicMoE",
    input="fp8_e4m3",
    weight="fp8_e4m3",
    output="bf16",
    input_scale=0.1,
    weight_scale=(0.1,) * 9,
    weight_axis=0,
    mid_scale=0.1,
    down_scale=(0.1,) * 9,
    shared_weight="fp8_e4m3",
    reason="x",
)
MOE_BLOCKS = LayerPrecision(
    op="R1DynamicMoE",
    input="int8",
    weight="int8",
    output="fp32",
    block_size=16,
    shared_weight="int8",
    reason="x",
)
LINEAR_LAYER = LayerPrecision(
    op="R1Linear", input="fp8_e4m3", weight="fp8_e4m3", output="bf16", input_scale=0.1, reason="x"
)
REFUSED: list[tuple[LayerPrecision, dict[str, Any], str]] = [
    (TABLE, {"weight": "int4"}, "weight is int4, but can be int8 or bf16 or fp32"),
    (TABLE, {"block_size": None}, "weight is int8 and block_size None; int8 tables, and no others, have one"),
    (TABLE, {"weight": "fp32"}, "weight is fp32 and block_size 32; int8 tables, and no others, have one"),
    (TABLE, {"block_size": 48}, "block_size is 48, can be 16, 32, 64, 128, 256"),
    (TABLE, {"output": "bf16"}, "rows of a table in blocks are fp32"),
    (TABLE, {"weight_scale": 0.1}, "weight_scale is given, but R1Embedding has none"),
    (LINEAR_LAYER, {"mid_scale": 0.5}, "mid_scale is given, but R1Linear has none"),
    (LINEAR_LAYER, {"shared_weight": "fp8_e4m3"}, "R1Linear has no shared expert"),
    (LINEAR_LAYER, {"weight_scale": (0.1, 0.2)}, "weight_axis belongs to a list"),
    (LINEAR_LAYER, {"weight_scale": (0.1, 0.2), "weight_axis": 1}, "along their rows"),
    (LINEAR_LAYER, {"input": "bf16"}, "input_scale belongs to a quantized input"),
    (LINEAR_LAYER, {"weight": "bf16"}, "a product of codes has one type for both"),
    (LINEAR_LAYER, {"input": "int8", "weight": "int4", "input_scale": None}, "INT4 has a scale a block"),
    (MOE_LAYER, {"block_size": 32}, "block_size belongs to an int8 or int4 weight, and weight is fp8_e4m3"),
    (LINEAR_LAYER, {"weight": "int8"}, "input is fp8_e4m3 and weight int8; a product of codes has one type"),
    (MOE_LAYER, {"weight": "int8", "shared_weight": "int8"}, "int8 or int4 in blocks alone; block_size is"),
    (MOE_BLOCKS, {"block_size": None}, "experts have int8 or int4 in blocks alone; block_size is missing"),
    (MOE_BLOCKS, {"block_size": 48}, "block_size is 48, can be 16, 32"),
    (MOE_BLOCKS, {"input": "fp32"}, "experts in blocks take int8 activations"),
    (MOE_BLOCKS, {"output": "bf16"}, "takes int8 or fp32 and gives fp32"),
    (MOE_BLOCKS, {"shared_weight": "fp32"}, "the type of the experts, int8"),
    (MOE_BLOCKS, {"mid_scale": 0.5, "down_scale": (0.1,) * 9}, "mid_scale and down_scale stand beside"),
    (MOE_BLOCKS, {"own_scales": True, "weight": "fp8_e4m3"}, "block_size belongs to an int8 or int4 weight"),
    (MOE_LAYER, {"input": "bf16"}, "no weight-only form"),
    (MOE_LAYER, {"shared_weight": "bf16"}, "the type of the experts, fp8_e4m3"),
]


@pytest.mark.parametrize(("layer", "change", "reason"), REFUSED)
def test_layers_that_are_refused(layer: LayerPrecision, change: dict[str, Any], reason: str) -> None:
    problems = list(operator_of_layer(layer).problems(replace(layer, **change)))
    assert any(reason in problem for problem in problems), problems


MOE_WIDE = replace(MOE_BLOCKS, block_size=None)
MISFITS: list[tuple[LayerPrecision, dict[str, Any], str]] = [
    (LINEAR_LAYER, {"weight_scale": (0.1,) * 47, "weight_axis": 0}, "47 scales for 48 rows"),
    (MOE_LAYER, {"weight_scale": (0.1,) * 8}, "weight_scale holds 8 scales, expected a list of 9"),
    (MOE_LAYER, {"down_scale": 0.1}, "down_scale holds 1 scales, expected a list of 9"),
    (MOE_LAYER, {"shared_weight": None}, "shared_weight is missing"),
    (MOE_WIDE, {"block_size": 16}, "the experts' width is 24, no multiple of block_size, which is 16"),
    (MOE_WIDE, {"block_size": 64}, "the hidden size is 32, no multiple of block_size, which is 64"),
]


@pytest.mark.parametrize(("layer", "change", "reason"), MISFITS)
def test_layers_that_do_not_fit(layer: LayerPrecision, change: dict[str, Any], reason: str) -> None:
    operator = operator_of_layer(layer)
    node = node_of(operator, INPUTS[layer.op])
    assert not list(operator.node_problems(node, layer))
    problems = list(operator.node_problems(node, replace(layer, **change)))
    assert any(reason in problem for problem in problems), problems


def test_a_shared_expert_that_is_not_there() -> None:
    operator = LAYER_OPERATORS["R1DynamicMoE"]
    inputs = {name: value for name, value in MOE.items() if not name.startswith("shared")}
    (problem, *_) = operator.node_problems(node_of(operator, inputs), MOE_LAYER)
    assert "the layer has no shared expert" in problem


def test_caches_are_found_by_name() -> None:
    operator = OPERATORS["R1HLAAttention"]
    node = node_of(operator, ATTENTION)
    assert operator.cache_values(node) == []
    node.resize_outputs(3)
    found = operator.cache_values(node)
    assert [(given.name, made is node.outputs[at]) for at, (_, given, made) in enumerate(found, start=1)] == [
        ("key_cache", True),
        ("value_cache", True),
    ]


def test_latent_attention_has_one_cache() -> None:
    operator = OPERATORS["R1HLAAttention"]
    node = node_of(operator, LATENT, {"v_head_dim": 32})
    node.resize_outputs(2)
    (found,) = operator.cache_values(node)
    assert (found[1].name, found[2]) == ("key_cache", node.outputs[1])


@pytest.mark.parametrize(("key", "value", "fits"), [(576, 512, True), (576, 448, False), (40, 32, False)])
def test_latents_that_the_plugin_has_a_kernel_for(key: int, value: int, fits: bool) -> None:
    operator, wide = OPERATORS["R1HLAAttention"], dict(LATENT)
    for name in ("q", "k", "key_cache"):
        dtype, dims = wide[name]
        wide[name] = (dtype, [*dims[:-1], key])
    problems = list(operator.plugin_problems(node_of(operator, wide, {"v_head_dim": value})))
    assert not problems if fits else "made for 576 and 512" in problems[0]


@pytest.mark.parametrize(("size", "fits"), [(64, True), (128, True), (16, False), (100, False)])
def test_heads_that_the_plugin_has_kernels_for(size: int, fits: bool) -> None:
    operator, sized = OPERATORS["R1HLAAttention"], dict(ATTENTION)
    for name in ("q", "k", "v", "key_cache", "value_cache"):
        dtype, dims = sized[name]
        sized[name] = (dtype, [*dims[:-1], size])
    problems = list(operator.plugin_problems(node_of(operator, sized)))
    assert not problems if fits else f"heads of {size}/{size} elements" in problems[0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"w_gate_up": [8, 40, 32], "w_down": [8, 32, 20]}, "the experts' width is 20"),
        ({"w_router": [512, 32], "w_gate_up": [512, 32, 32], "w_down": [512, 32, 16]}, "512 experts"),
    ],
)
def test_experts_that_the_plugin_has_kernels_for(change: dict[str, list[int]], problem: str | None) -> None:
    operator, sized = OPERATORS["R1DynamicMoE"], dict(MOE)
    sized |= {"w_gate_up": (FP8_CODES, [8, 32, 32]), "w_down": (FP8_CODES, [8, 32, 16])}
    sized |= {"shared_gate_up": (FP8_CODES, [32, 32]), "shared_down": (FP8_CODES, [32, 16])}
    for name, dims in change.items():
        sized[name] = (sized[name][0], list(dims))
    problems = list(operator.plugin_problems(node_of(operator, sized)))
    assert not problems if problem is None else problem in problems[0]


def test_a_layer_of_no_operator() -> None:
    with pytest.raises(PlanError, match="No layer has the type 'Conv'"):
        operator_of_layer(LayerPrecision(op="Conv", input="bf16", output="bf16", reason="x"))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), (0.5, 0.0)])
def test_scales_are_finite_and_above_0(value: Any) -> None:
    with pytest.raises(PlanError, match="finite and above 0"):
        replace(LINEAR_LAYER, weight_scale=value)
