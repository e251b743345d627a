"""The byte model is what builds store, also where a head and an embedding are one table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest
from tiny_checkpoints import write_llama

from r1trt.build.write_typed import weight_bytes
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import load_export
from r1trt.passes.pipeline import passes_for, run_passes
from r1trt.precision.rules import plan_from_rules
from r1trt.search.candidates import Choice, groups_of_candidates
from r1trt.search.times import CostModel, Workload, device_for_arch

HEAD, DOWN = "lm_head", "model.layers.0.mlp.down_proj"
VOCABULARY, WIDTH, INNER = 1024, 64, 96


def exported(directory: Path, *, tied: bool) -> ir.Model:
    checkpoint = write_llama(
        directory / "checkpoint",
        dtype="bfloat16",
        head_dim=64,
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        tie_word_embeddings=tied,
    )
    config = ExportConfig(checkpoint=checkpoint, output=directory / "export", max_seq_len=64)
    return load_export(export_checkpoint(config)).model


@pytest.mark.parametrize(
    ("name", "tied", "gained"),
    [
        (HEAD, True, -VOCABULARY * WIDTH),
        (HEAD, False, VOCABULARY * WIDTH),
        (DOWN, True, INNER * WIDTH),
    ],
)
def test_bytes_gained_are_those_of_typed_graphs(name: str, tied: bool, gained: int, tmp_path: Path) -> None:
    model = exported(tmp_path, tied=tied)
    wide = plan_from_rules(model, "ada", "bf16")
    narrow = replace(wide.layers[name], weight="fp8_e4m3", weight_scale=0.01)
    plans = [wide, replace(wide, layers={**wide.layers, name: narrow})]
    stored = [
        weight_bytes(run_passes(model, passes_for("tensorrt-rtx", plan, capacity=64, sms=(89,))))
        for plan in plans
    ]
    costs = CostModel(model, wide, "bytes", device_for_arch("ada"), Workload())
    modelled = [costs.cost(Choice(kind="a test", layers={name: plan.layers[name]})) for plan in plans]
    assert modelled[0] - modelled[1] == gained
    # The narrow weight has a scale beside it.
    assert stored[0] - stored[1] == pytest.approx(gained, abs=16)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_table_in_blocks_is_counted_once_a_type(tied: bool, tmp_path: Path) -> None:
    model = exported(tmp_path, tied=tied)
    plans = {kind: plan_from_rules(model, "cpu", kind) for kind in ("fp32", "int8", "int4")}
    groups = {group.layers: group for group in groups_of_candidates(model, plans)}
    ends = [("model.embed_tokens", HEAD)] if tied else [("model.embed_tokens",), (HEAD,)]
    assert [layers for layers in groups if HEAD in layers or "model.embed_tokens" in layers] == ends
    costs = CostModel(model, plans["fp32"], "bytes", device_for_arch("cpu"), Workload())
    elements, stored = VOCABULARY * WIDTH, [4.0, 1 + 4 / 32]
    for kind, each in zip(("fp32", "int8"), stored, strict=True):
        chosen = [choice for layers in ends for choice in groups[layers].choices if choice.kind == kind]
        assert sum(map(costs.bytes, chosen)) == len(ends) * elements * each
    mixed = {
        "model.embed_tokens": plans["fp32"].layers["model.embed_tokens"],
        HEAD: plans["int8"].layers[HEAD],
    }
    assert costs.bytes(Choice(kind="mixed", layers=mixed)) == elements * sum(stored)
