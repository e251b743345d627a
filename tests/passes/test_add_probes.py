"""Where a graph is measured: once for each value that FP8 layers read, and inside a mixture's experts."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from tiny_checkpoints import write_r1_asa

from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import load_export
from r1trt.ops.registry import operator_of_layer
from r1trt.passes.add_probes import probes_for
from r1trt.precision.rules import plan_from_rules

ATTENTION, MOE = "model.layers.0.self_attn", "model.layers.0.mlp.moe"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ir.Model:
    directory = tmp_path_factory.mktemp("asa")
    checkpoint = write_r1_asa(directory / "checkpoint")
    config = ExportConfig(checkpoint=checkpoint, output=directory / "export", max_seq_len=64)
    return load_export(export_checkpoint(config)).model


def test_every_open_scale_of_a_plan_is_measured_once(model: ir.Model) -> None:
    plan = plan_from_rules(model, "ada", "fp8")
    missing = {
        key: operator_of_layer(layer).missing_input_scales(layer) for key, layer in plan.layers.items()
    }
    found = [(key, probe.scale) for probe in probes_for(model, missing) for key in probe.layers]
    assert sorted(found) == sorted((key, scale) for key, scales in missing.items() for scale in scales)
    assert (MOE, "mid_scale") in found and (f"{ATTENTION}.q_proj", "input_scale") in found


def test_layers_that_read_one_value_share_a_probe(model: ir.Model) -> None:
    keys = [f"{ATTENTION}.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    probes = probes_for(model, {key: ("input_scale",) for key in keys})
    assert [probe.layers for probe in probes] == [tuple(keys[:3]), (keys[3],)]


def test_only_the_scales_that_are_asked_for(model: ir.Model) -> None:
    [probe] = probes_for(model, {MOE: ("mid_scale",)})
    assert (probe.layers, probe.scale) == ((MOE,), "mid_scale")
    assert probes_for(model, {}) == []
