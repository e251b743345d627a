"""The byte model is what builds store, also where a head and an embedding are one table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_checkpoints import write_llama

from r1trt.build.write_typed import weight_bytes
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import load_export
from r1trt.passes.pipeline import passes_for, run_passes
from r1trt.precision.rules import plan_from_rules
from r1trt.search.candidates import Choice
from r1trt.search.times import CostModel, Workload, device_for_arch

HEAD, DOWN = "lm_head", "model.layers.0.mlp.down_proj"
VOCABULARY, WIDTH, INNER = 1024, 64, 96


@pytest.mark.parametrize(
    ("name", "tied", "gained"),
    [
        (HEAD, True, -VOCABULARY * WIDTH),
        (HEAD, False, VOCABULARY * WIDTH),
        (DOWN, True, INNER * WIDTH),
    ],
)
def test_bytes_gained_are_those_of_typed_graphs(name: str, tied: bool, gained: int, tmp_path: Path) -> None:
    checkpoint = write_llama(
        tmp_path / "checkpoint",
        dtype="bfloat16",
        head_dim=64,
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        tie_word_embeddings=tied,
    )
    config = ExportConfig(checkpoint=checkpoint, output=tmp_path / "export", max_seq_len=64)
    model = load_export(export_checkpoint(config)).model
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
