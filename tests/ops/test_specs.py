"""Specs: read from a node, and back as a node's attributes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ops.nodes import ATTENTION, BF16, FLOAT, LATENT, MOE, ROPE, Inputs, node_of
from ops.nodes import FP8 as FP8_CODES
from tiny_checkpoints import write_r1_asa

from r1trt.checkpoint import checkpoint_from_dir
from r1trt.config import GqaConfig, MoeConfig
from r1trt.errors import ExportError
from r1trt.export.model import onnx_from_checkpoint
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE
from r1trt.ops.hla_attention import HLA_ATTENTION
from r1trt.ops.operator import Operator
from r1trt.ops.registry import operator_of

CASES: list[tuple[Operator[Any], Inputs, dict[str, int | float]]] = [
    (DYNAMIC_ROPE, ROPE, {"interleaved": 1, "attention_factor": 1.5, "temperature_alpha": 0.25}),
    (HLA_ATTENTION, ATTENTION, {"scale": 0.5, "block_size": 8, "inter_block": 1, "lam_skip": 0.25}),
    (HLA_ATTENTION, LATENT, {"scale": 0.25, "v_head_dim": 32}),
    (DYNAMIC_MOE, MOE, {"scoring": 1, "topk_method": 2, "top_k": 3, "n_group": 4, "norm_topk_prob": 0}),
]


NAMES = [operator.name for operator, _, _ in CASES]


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"), CASES, ids=lambda item: getattr(item, "name", "")
)
def test_a_spec_gives_back_the_nodes_attributes(
    operator: Operator[Any], inputs: Inputs, attributes: dict[str, int | float]
) -> None:
    node = node_of(operator, inputs, attributes)
    assert operator_of(node) is operator
    spec = operator.spec_from_node(node)
    again = operator.spec_from_node(node_of(operator, inputs, spec.attributes()))
    assert again == spec
    assert spec.attributes() | attributes == spec.attributes()
    assert set(spec.attributes()) == set(operator.attributes)


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"), CASES, ids=lambda item: getattr(item, "name", "")
)
def test_a_spec_tells_types_apart(
    operator: Operator[Any], inputs: Inputs, attributes: dict[str, int | float]
) -> None:
    first = operator.inputs[0]
    wide = inputs | {first: (FLOAT, inputs[first][1])}
    specs = [operator.spec_from_node(node_of(operator, case, attributes)) for case in (inputs, wide)]
    assert [spec.activation for spec in specs] == [BF16, FLOAT]


def test_experts_have_a_type_of_their_own() -> None:
    spec = DYNAMIC_MOE.spec_from_node(node_of(DYNAMIC_MOE, MOE, {}))
    assert spec.weights == FP8_CODES and spec.fp8
    bf16 = MOE | {"w_gate_up": (BF16, [8, 48, 32])}
    assert not DYNAMIC_MOE.spec_from_node(node_of(DYNAMIC_MOE, bf16, {})).fp8


@pytest.mark.parametrize("shape", [["B", "S", "H", 16], [16], []])
def test_a_size_that_is_not_static_is_refused(shape: list[int | str]) -> None:
    with pytest.raises(ExportError, match="static sizes of its input 'q'"):
        DYNAMIC_ROPE.spec_from_node(node_of(DYNAMIC_ROPE, ROPE | {"q": (BF16, shape)}, {}))


def test_an_input_without_a_type_is_refused() -> None:
    inputs = ROPE | {"q": (None, ["B", "S", 4, 16])}
    with pytest.raises(ExportError, match="typed input 'q'"):
        DYNAMIC_ROPE.spec_from_node(node_of(DYNAMIC_ROPE, inputs, {}))


def test_a_config_and_its_exported_nodes_have_one_spec(tmp_path: Path) -> None:
    checkpoint = checkpoint_from_dir(
        write_r1_asa(tmp_path, num_shared_experts=1, shared_intermediate_size=48)
    )
    nodes = {str(node.name): node for node in onnx_from_checkpoint(checkpoint, 64).graph}
    layer, prefix = checkpoint.config.layers[0], "model.layers.0"
    assert isinstance(layer.attention, GqaConfig) and isinstance(layer.mlp, MoeConfig)
    rope = DYNAMIC_ROPE.spec_from_node(nodes[f"{prefix}.self_attn.rope"])
    given = checkpoint.config.rope
    assert DYNAMIC_ROPE.spec_from_config(layer.attention, given, rope.attention_factor) == rope
    attention = HLA_ATTENTION.spec_from_node(nodes[f"{prefix}.self_attn.attention"])
    assert HLA_ATTENTION.spec_from_config(layer.attention, 64) == approximately(attention)
    moe = DYNAMIC_MOE.spec_from_node(nodes[f"{prefix}.mlp.moe"])
    made = DYNAMIC_MOE.spec_from_config(layer.mlp, checkpoint.config.hidden_size, moe.weights)
    assert made == approximately(moe)


def approximately(spec: Any) -> Any:
    """A spec whose numbers went through FP32 attributes."""
    numbers = {
        name: pytest.approx(value, rel=1e-6) for name, value in vars(spec).items() if type(value) is float
    }
    return replace(spec, **numbers)


@pytest.mark.parametrize(
    ("operator", "inputs", "name", "value"),
    [
        (DYNAMIC_MOE, MOE, "scoring", 2),
        (DYNAMIC_MOE, MOE, "topk_method", -1),
        (HLA_ATTENTION, ATTENTION, "inter_block", 7),
        (DYNAMIC_MOE, MOE, "top_k", 2.0),
        (HLA_ATTENTION, ATTENTION, "lam_skip", 1),
        (DYNAMIC_MOE, MOE, "routed_scaling_factor", -1.0),
        (DYNAMIC_MOE, MOE, "routed_scaling_factor", float("inf")),
        (DYNAMIC_MOE, MOE, "adaptive_threshold", float("nan")),
    ],
)
def test_an_attribute_that_stands_for_nothing_is_refused(
    operator: Operator[Any], inputs: Inputs, name: str, value: int | float
) -> None:
    with pytest.raises(ExportError, match=f"does not know this '{name}'"):
        operator.spec_from_node(node_of(operator, inputs, {name: value}))
