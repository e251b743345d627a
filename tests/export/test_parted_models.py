"""Whole models whose experts come in parts: the same logits, and builds that type every part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from export.agreement import FEEDS, exported_session, feed, random_prompts
from families.family_builds import assert_fp8_engine_obeys_its_plan, build
from fp8_checkpoints import RAGGED, quantize_checkpoint
from tiny_checkpoints import write_deepseek

from r1trt.errors import UnavailableError
from r1trt.export import moe
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.expert_parts import part_inputs
from r1trt.precision.plan_file import load_plan
from r1trt.runtime.load import session_from_engine

EXPERTS = 8
PARTS = (2, 3)  # 3 does not divide the experts
PLUGIN_SIZES = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "moe_intermediate_size": 32}
SetParts = Callable[[int], None]


@pytest.fixture
def set_parts(monkeypatch: pytest.MonkeyPatch) -> SetParts:
    """Makes exports write a number of parts, whatever the sizes."""
    return lambda parts: monkeypatch.setattr(moe, "fewest_parts", lambda *_: parts)


def moe_node(graph: ir.Graph) -> ir.Node:
    return next(node for node in graph if node.op_type == DYNAMIC_MOE.name)


@pytest.mark.parametrize("kind", ["fp32", "block fp8"])
def test_logits_are_those_of_one_part(kind: str, set_parts: SetParts, tmp_path: Path) -> None:
    sizes = RAGGED if kind == "block fp8" else {}
    checkpoint = write_deepseek(tmp_path / "plain", n_routed_experts=EXPERTS, **sizes)
    if kind == "block fp8":
        checkpoint = quantize_checkpoint(checkpoint, tmp_path / "fp8")
    prompts = random_prompts((37, 23), 320)
    found = {}
    for parts in (1, *PARTS):
        set_parts(parts)
        session = exported_session(checkpoint, tmp_path / f"export{parts}")
        found[parts] = [feed(session, prompts, calls) for calls in FEEDS.values()]
        node = moe_node(ir.load(tmp_path / f"export{parts}" / "model.onnx").graph)
        assert DYNAMIC_MOE.spec_from_node(node).expert_parts == parts
    for parts in PARTS:
        for got, want in zip(found[parts], found[1], strict=True):
            for row, whole in zip(got, want, strict=True):
                np.testing.assert_array_equal(row, whole)


def test_builds_have_the_scales_and_the_rounding_of_one_part(set_parts: SetParts, tmp_path: Path) -> None:
    checkpoint = write_deepseek(tmp_path / "checkpoint", tokenizer=True, n_routed_experts=EXPERTS)
    prompts, found, plans = random_prompts((37, 23), 320), {}, {}
    for parts in (1, 3):
        set_parts(parts)
        engine = build(checkpoint, tmp_path / f"{parts}", "cpu", "fp8")
        session = session_from_engine(engine)
        found[parts] = feed(session, prompts, FEEDS["chunks"])
        plans[parts] = load_plan(engine / "precision.yaml").layers
    assert plans[1] == plans[3]
    for got, want in zip(found[3], found[1], strict=True):
        np.testing.assert_array_equal(got, want)


def test_fp8_engine(set_parts: SetParts, tmp_path: Path) -> None:
    set_parts(3)
    assert_fp8_engine_obeys_its_plan(
        write_deepseek(tmp_path / "checkpoint", tokenizer=True, n_routed_experts=EXPERTS),
        tmp_path,
        product="model.layers.1.self_attn.q_a_proj",
    )


@pytest.mark.parametrize(("precision", "mask"), [("bf16", 0x333_30FF), ("fp8", 0xFFFF_FFF)])
def test_plugin_nodes_name_the_inputs_of_every_part(
    precision: str, mask: int, set_parts: SetParts, tmp_path: Path
) -> None:
    set_parts(5)
    checkpoint = write_deepseek(
        tmp_path / "checkpoint", tokenizer=True, n_routed_experts=EXPERTS, **PLUGIN_SIZES
    )
    with pytest.raises(UnavailableError, match="Everything but the engine"):
        build(checkpoint, tmp_path, "hopper", precision)  # type: ignore[arg-type]
    node = moe_node(ir.load(tmp_path / "engine" / "typed.onnx").graph)
    assert node.attributes["expert_parts"].as_int() == 5
    assert node.attributes["input_mask"].as_int() == mask
    names = [name for index, name in enumerate((*DYNAMIC_MOE.inputs, *part_inputs(5))) if mask >> index & 1]
    sizes = {name: list(value.shape) for name, value in zip(names, node.inputs, strict=True)}
    stacks = [sizes[name][0] for name in sizes if name.startswith("w_down")]
    assert stacks == [2, 2, 2, 1, 1] and sizes["w_gate_up.4"] == [1, 64, 64]
    if precision == "fp8":
        assert [sizes[name] for name in sizes if name.startswith("down_scale")] == [[3], [2], [2], [1], [1]]
