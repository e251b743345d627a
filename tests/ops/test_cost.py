"""Costs against counts by hand, the masks of the PyTorch model, and PyTorch's flop counter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
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
    node_of,
)
from tiny_checkpoints import write_llama, write_qwen2, write_r1_asa
from torch.utils.flop_counter import FlopCounterMode

from r1trt.checkpoint import checkpoint_from_dir
from r1trt.config import GqaConfig, HlaConfig, MoeConfig
from r1trt.data_types import DATA_TYPES
from r1trt.errors import ConfigError
from r1trt.export.model import onnx_from_checkpoint
from r1trt.model import load_checkpoint
from r1trt.model.attention import block_mask, causal_mask, masked_attention
from r1trt.model.moe import DynamicMoe
from r1trt.ops import embedding, head_product, lambda_gate, linear, residual_add, rms_norm, swiglu
from r1trt.ops.cost import CallSize, Cost
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE
from r1trt.ops.hla_attention import HLA_ATTENTION, AttentionSpec, block_pairs, full_pairs
from r1trt.ops.layer_precision import LayerPrecision, Precision
from r1trt.ops.operator import Operator
from r1trt.ops.registry import LAYER_OPERATORS
from r1trt.precision.checks import layer_nodes

CALL = CallSize(batch=2, tokens=5, past=3)
T, K, N = 10, 32, 48
FLOP_TOLERANCE = 0.01


def cost(
    op: Operator[Any], inputs: Any, *, fp8: bool = False, call: CallSize = CALL, **attributes: Any
) -> Cost:
    node = node_of(op, inputs, attributes)
    return op.cost(op.spec_from_node(node), op.default_layer(node, "bf16", fp8=fp8), call)


HAND: list[tuple[str, Operator[Any], Any, bool, Cost]] = [
    (
        "FP8 linear",
        linear.LINEAR,
        LINEAR,
        True,
        Cost(
            macs={"fp8_e4m3": T * K * N},
            read_bytes={"fp8_e4m3": T * K + N * K},
            written_bytes={"bf16": 2 * T * N},
        ),
    ),
    (
        "BF16 linear with a bias",
        linear.LINEAR_BIAS,
        LINEAR_BIAS,
        False,
        Cost(
            macs={"bf16": T * K * N + T * N},
            read_bytes={"bf16": 2 * (T * K + N * K + N)},
            written_bytes={"bf16": 2 * T * N},
        ),
    ),
    (
        "a norm of 4 heads",
        rms_norm.RMS_NORM,
        NORM,
        True,
        Cost(
            macs={"fp32": 3 * T * 4 * K},
            read_bytes={"bf16": 2 * T * 4 * K, "fp32": 4 * K},
            written_bytes={"bf16": 2 * T * 4 * K},
        ),
    ),
    (
        "embedding",
        embedding.EMBEDDING,
        EMBEDDING,
        True,
        Cost(macs={}, read_bytes={"int64": 8 * T, "bf16": 2 * T * K}, written_bytes={"bf16": 2 * T * K}),
    ),
    (
        "SwiGLU",
        swiglu.SWIGLU,
        SWIGLU,
        True,
        Cost(macs={"bf16": 2 * T * N}, read_bytes={"bf16": 4 * T * N}, written_bytes={"bf16": 2 * T * N}),
    ),
    (
        "residual sum",
        residual_add.RESIDUAL_ADD,
        SUM,
        True,
        Cost(macs={"bf16": T * K}, read_bytes={"bf16": 4 * T * K}, written_bytes={"bf16": 2 * T * K}),
    ),
    (
        "lambda gate",
        lambda_gate.LAMBDA_GATE,
        GATE,
        True,
        Cost(
            macs={"fp32": T * 4 * (K + 1)},
            read_bytes={"bf16": 2 * T * K, "fp32": 4 * 4 * (K + 1)},
            written_bytes={"fp32": 4 * T * 4},
        ),
    ),
    (
        "RoPE of half a head",
        DYNAMIC_ROPE,
        ROPE,
        True,
        Cost(
            macs={"fp32": 2 * T * 6 * 8},
            read_bytes={"bf16": 2 * T * 6 * 16, "fp32": 4 * 4, "int64": 8 * 2},
            written_bytes={"bf16": 2 * T * 6 * 16},
        ),
    ),
    *(
        (
            f"a product a head, {operator.name}",
            operator,
            inputs,
            True,
            Cost(
                macs={"bf16": T * 4 * 16 * 32},
                read_bytes={"bf16": 2 * (T * 4 * 16 + 4 * 16 * 32)},
                written_bytes={"bf16": 2 * T * 4 * 32},
            ),
        )
        for operator, inputs in (
            (head_product.HEAD_MATMUL, HEAD_MATMUL),
            (head_product.HEAD_LINEAR, HEAD_LINEAR),
        )
    ),
    (
        # Every token of 10 may take 2 of 8 experts, so all 8 are read.
        "FP8 experts",
        DYNAMIC_MOE,
        MOE,
        True,
        Cost(
            macs={"fp8_e4m3": T * (2 * 3 * 32 * 24 + 3 * 32 * 10), "fp32": T * 8 * 32},
            read_bytes={
                "bf16": 2 * T * 32,
                "fp8_e4m3": 8 * 3 * 32 * 24 + 3 * 32 * 10,
                "fp32": 4 * 8 * 32,
                "int64": 8 * 2,
            },
            written_bytes={"bf16": 2 * T * 32},
        ),
    ),
]


def test_a_row_in_blocks_by_hand() -> None:
    node = node_of(embedding.EMBEDDING, EMBEDDING)
    wide = embedding.EMBEDDING.default_layer(node, "fp32", fp8=False)
    layer = embedding.EMBEDDING.in_blocks(wide, "int4", 16)
    found = embedding.EMBEDDING.cost(embedding.EMBEDDING.spec_from_node(node), layer, CALL)
    scales = T * K // 16
    assert found == Cost(
        macs={},
        read_bytes={"int64": 8 * T, "int8": T * K, "fp32": 4 * scales},
        written_bytes={"fp32": 4 * T * K},
    )


@pytest.mark.parametrize(("name", "op", "inputs", "fp8", "expected"), HAND, ids=[row[0] for row in HAND])
def test_counts_by_hand(name: str, op: Operator[Any], inputs: Any, fp8: bool, expected: Cost) -> None:
    assert cost(op, inputs, fp8=fp8) == expected


@pytest.mark.parametrize(("kind", "act"), [("bf16", "bf16"), ("fp8_e4m3", "fp32")])
def test_a_bias_has_the_type_of_its_product(kind: Precision, act: str) -> None:
    """An FP32 output behind a BF16 product is a cast; an FP8 product is made in the output's type."""
    layer = LayerPrecision(
        op=linear.LINEAR_BIAS.name, input=kind, weight=kind, output="fp32", reason="an output of its own"
    )
    node = node_of(linear.LINEAR_BIAS, LINEAR_BIAS)
    found = linear.LINEAR_BIAS.cost(linear.LINEAR_BIAS.spec_from_node(node), layer, CALL)
    operands = DATA_TYPES[kind].bytes * (T * K + N * K)
    biases = DATA_TYPES[act].bytes * N
    assert found == Cost(macs={kind: T * K * N}, read_bytes={kind: operands}, written_bytes={}) + Cost(
        macs={act: T * N}, read_bytes={act: biases}, written_bytes={"fp32": 4 * T * N}
    )


@pytest.mark.parametrize(("kind", "bytes_of_weights"), [("int8", 1.0), ("int4", 0.5)])
def test_experts_in_blocks_read_their_scales(kind: Precision, bytes_of_weights: float) -> None:
    layer = LayerPrecision(
        op=DYNAMIC_MOE.name, input="int8", weight=kind, output="fp32", block_size=8, shared_weight=kind,
        reason="blocks",
    )  # fmt: skip
    found = DYNAMIC_MOE.cost(DYNAMIC_MOE.spec_from_node(node_of(DYNAMIC_MOE, MOE)), layer, CALL)
    experts, shared = 8 * 3 * 32 * 24, 3 * 32 * 10
    assert found.macs == {"int8": T * (2 * 3 * 32 * 24 + shared), "fp32": T * 8 * 32}
    assert found.read_bytes[kind] == bytes_of_weights * (experts + shared)
    assert found.read_bytes["fp32"] == 4 * (8 * 32 + T * 32 + (experts + shared) // 8)


def test_attention_by_hand() -> None:
    # 5 queries behind 3 cached tokens see 4 + 5 + 6 + 7 + 8 keys; blocks of 4: position 3 sees 4, 4 its own
    # and first token 0, then 2, 3 and 4 of its own block.
    found = cost(HLA_ATTENTION, ATTENTION, block_size=4)
    assert found.macs == {"bf16": 2 * 4 * (30 + (4 + 2 + 2 + 3 + 4)) * 32}
    keys, new = 2 * 8 * 2 * 32, 2 * 5 * 2 * 32
    assert found.read_bytes == {"bf16": 2 * (T * 4 * 16 + keys), "fp32": 4 * T * 4, "int64": 8 * 4}
    assert found.written_bytes == {"bf16": 2 * (T * 4 * 16 + new)}


def test_latent_attention_by_hand() -> None:
    """A key of 40 elements, of which 32 are its value too, is stored and read once."""
    found = cost(HLA_ATTENTION, LATENT, v_head_dim=32)
    assert found.macs == {"bf16": 2 * 4 * 30 * (40 + 32)}
    assert found.read_bytes == {"bf16": 2 * (T * 4 * 40 + 2 * 8 * 40), "int64": 8 * 4}
    assert found.written_bytes == {"bf16": 2 * (T * 4 * 32 + T * 40)}


@pytest.mark.parametrize("tokens", [1, 7])
def test_few_tokens_touch_few_experts(tokens: int) -> None:
    call = CallSize(batch=1, tokens=tokens)
    found = cost(DYNAMIC_MOE, MOE, call=call, top_k=1)
    assert found.read_bytes["bf16"] == 2 * (tokens * 32 + tokens * 3 * 32 * 24 + 3 * 32 * 10)


def attention_spec(inter_block: Any, block_size: int) -> AttentionSpec:
    hla = HlaConfig(block_size=block_size, inter_block=inter_block, gate=True)
    config = GqaConfig(num_heads=4, num_kv_heads=2, head_dim=16, hla=hla)
    return HLA_ATTENTION.spec_from_config(config, 64)


@pytest.mark.parametrize("inter_block", ["first_to_first", "all_to_first"])
@pytest.mark.parametrize(("tokens", "past"), [(1, 0), (1, 64), (37, 0), (5, 30), (70, 17)])
@pytest.mark.parametrize("block_size", [1, 8, 32])
def test_pairs_are_those_of_the_masks(inter_block: Any, tokens: int, past: int, block_size: int) -> None:
    call, spec = CallSize(batch=1, tokens=tokens, past=past), attention_spec(inter_block, block_size)
    position_BS = torch.arange(past, past + tokens)[None]
    config = HlaConfig(block_size=block_size, inter_block=inter_block)
    assert full_pairs(call) == int(causal_mask(position_BS, past + tokens).sum())
    assert block_pairs(spec, call) == int(block_mask(position_BS, past + tokens, config).sum())


def flops(call: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_a_linear_against_the_flop_counter() -> None:
    module, x = torch.nn.Linear(K, N, bias=False), torch.zeros(2, 5, K)
    assert flops(lambda: module(x)) == pytest.approx(
        2 * sum(cost(linear.LINEAR, LINEAR).macs.values()), rel=FLOP_TOLERANCE
    )


@pytest.mark.parametrize(("tokens", "past"), [(1, 499), (64, 400)])
def test_attention_against_the_flop_counter(tokens: int, past: int) -> None:
    """PyTorch computes masked keys too; beside them the counts are the same."""
    q, k = torch.zeros(2, tokens, 4, 16), torch.zeros(2, 2, past + tokens, 16)
    mask = causal_mask(torch.arange(past, past + tokens).expand(2, -1), past + tokens)
    call = CallSize(batch=2, tokens=tokens, past=past)
    plain = {name: value for name, value in ATTENTION.items() if name != "lam"}
    counted = flops(lambda: masked_attention(q, k, k, mask)) * full_pairs(call) / (tokens * (past + tokens))
    expected = 2 * cost(HLA_ATTENTION, plain, call=call).macs["bf16"]
    assert counted == pytest.approx(expected, rel=FLOP_TOLERANCE)


@pytest.mark.parametrize(("shared", "tokens"), [(0, 1), (40, 33)])
def test_experts_against_the_flop_counter(shared: int, tokens: int) -> None:
    config = MoeConfig(num_experts=8, expert_width=24, shared_width=shared, top_k=3)
    module = DynamicMoe(config, 32)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    x_BSD, valid_BS = torch.randn(2, tokens, 32), torch.ones(2, tokens, dtype=torch.bool)
    spec = DYNAMIC_MOE.spec_from_config(config, 32, ir.DataType.FLOAT)
    fp32 = DYNAMIC_MOE.default_layer(node_of(DYNAMIC_MOE, MOE), "fp32", fp8=False)
    found = DYNAMIC_MOE.cost(spec, fp32, CallSize(batch=2, tokens=tokens))
    assert flops(lambda: module(x_BSD, valid_BS)) == pytest.approx(2 * found.macs["fp32"], rel=FLOP_TOLERANCE)


def test_costs_add_up() -> None:
    one, other = cost(linear.LINEAR, LINEAR, fp8=True), cost(rms_norm.RMS_NORM, NORM)
    total = one + other
    assert total.macs == {"fp8_e4m3": T * K * N, "fp32": 3 * T * 4 * K}
    assert total.written_bytes == {"bf16": one.written_bytes["bf16"] + other.written_bytes["bf16"]}


def test_the_head_behind_the_last_token_has_a_row_a_sequence() -> None:
    last = LINEAR | {"x": (LINEAR["x"][0], ["B", K])}
    assert cost(linear.LINEAR, last).macs == {"bf16": 2 * K * N}


def test_a_shape_that_no_call_gives_is_refused() -> None:
    with pytest.raises(ConfigError, match="an axis that no call gives"):
        CALL.elements(("B", "L", 4))


@pytest.mark.parametrize("sizes", [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_a_call_without_tokens_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="has sequences and tokens"):
        CallSize(batch=sizes[0], tokens=sizes[1], past=sizes[2])


CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "llama": write_llama,
    "tied": lambda path: write_llama(path, tie_word_embeddings=True),
    "qwen2": write_qwen2,
    "r1-asa": lambda path: write_r1_asa(path, num_shared_experts=1, shared_intermediate_size=48),
}
# What PyTorch's counter sees: matrix products.
PRODUCTS = ("R1Linear", "R1LinearBias", "R1LambdaGate", "R1HLAAttention", "R1DynamicMoE")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_whole_model_against_the_flop_counter(name: str, tmp_path: Path) -> None:
    """One token of each sequence, where no key is masked and no other expert is chosen."""
    directory = CHECKPOINTS[name](tmp_path)
    nodes = layer_nodes(onnx_from_checkpoint(checkpoint_from_dir(directory), 64))
    call, products, everything = CallSize(batch=3, tokens=1), 0, 0
    for node in nodes.values():
        operator = LAYER_OPERATORS[node.op_type]
        fp32 = operator.default_layer(node, "fp32", fp8=False)
        macs = sum(operator.cost(operator.spec_from_node(node), fp32, call).macs.values())
        everything += macs
        products += macs * (node.op_type in PRODUCTS)
    module = load_checkpoint(directory, torch.float32)
    with torch.no_grad():
        counted = flops(lambda: module(torch.tensor([[5], [6], [7]])))
    assert 2 * products == pytest.approx(counted, rel=FLOP_TOLERANCE)
    assert products < everything < 1.1 * products
