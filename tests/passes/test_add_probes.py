"""Where a graph is measured: once for each value that FP8 layers read, and inside a mixture's experts."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from passes.layer_by_layer import run
from tiny_checkpoints import write_r1_asa

from r1trt.calibrate.ranges import AMAX
from r1trt.errors import PlanError
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import ExportedModel, load_export
from r1trt.lowerings.inner_statistics import inner_statistic
from r1trt.ops.registry import LAYER_OPERATORS, operator_of_layer
from r1trt.passes.add_probes import INPUT_SCALE, AddProbesPass, Probe, probes_for
from r1trt.passes.pipeline import calibration_passes, run_passes
from r1trt.precision.rules import plan_from_rules

ATTENTION, MOE = "model.layers.0.self_attn", "model.layers.0.mlp.moe"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    directory = tmp_path_factory.mktemp("asa")
    checkpoint = write_r1_asa(directory / "checkpoint")
    config = ExportConfig(checkpoint=checkpoint, output=directory / "export", max_seq_len=64)
    return load_export(export_checkpoint(config))


@pytest.fixture
def model(exported: ExportedModel) -> ir.Model:
    return exported.model


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


@pytest.mark.parametrize(
    ("key", "scale"), [(f"{ATTENTION}.q_proj", "mid_scale"), (f"{ATTENTION}.attention", "q_scale")]
)
def test_a_scale_that_nothing_measures_is_refused(model: ir.Model, key: str, scale: str) -> None:
    """Whatever the node is: one operator's statistic is not taken for another's scale."""
    with pytest.raises(PlanError, match="does not measure this scale") as caught:
        probes_for(model, {key: (scale,)})
    assert caught.value.details["found"].startswith(f"{scale} of R1")
    probe = Probe(name="probe", layers=(key,), scale=scale)
    with pytest.raises(PlanError, match="does not measure this scale"):
        AddProbesPass([probe], AMAX).call(model.clone())


def test_every_scale_of_an_operator_is_measured(model: ir.Model) -> None:
    nodes = {node.op_type: node for node in model.graph}
    for operator in LAYER_OPERATORS.values():
        for scale in operator.input_scales:
            if scale != INPUT_SCALE:
                node = nodes[operator.name]
                inputs = inner_statistic(operator, scale).inputs(operator.spec_from_node(node))
                assert set(inputs) <= set(operator.input_names(node))


def test_a_mixture_is_measured_with_its_own_attributes(exported: ExportedModel) -> None:
    scales = {f"model.layers.{layer}.mlp.moe": ("mid_scale",) for layer in (0, 1)}
    probes = probes_for(exported.model, scales)
    feeds = {"input_ids": np.arange(20)[None] + 2, "seq_len": np.array([20])}
    edited = exported.model.clone()
    (node,) = [node for node in edited.graph if node.name == "model.layers.1.mlp.moe"]
    node.attributes["top_k"] = ir.AttrInt64("top_k", 8)
    first, second = (
        run(run_passes(model, calibration_passes(probes, AMAX)), exported.weight_base, feeds)
        for model in (exported.model, edited)
    )
    names = [probe.name for probe in probes]
    assert first[names[0]] == second[names[0]]
    assert first[names[1]] < second[names[1]], "all eight experts see every token, two of eight do not"
