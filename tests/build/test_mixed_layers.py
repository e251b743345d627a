"""Six layers that differ in types and attributes, built for SM89 and for the CPU, and checked layer by layer.

The plan gives each kind of layer every type that it may have; top_k, lam_skip and inter_block are edited node
by node. A layer of another type than planned has an error of another size, and a layer with another layer's
attribute one of tens of percent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from lowerings.layer_mixtures import CAPACITY, EDITS, LAYERS, Edit, edit_nodes, six_layers
from passes.layer_by_layer import LayerError, layer_errors, observed, run
from passes.mixed_plans import choices_for, mixed_plan

from r1trt.arch import Backend
from r1trt.artifacts import BuildArtifact
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.build.write_typed import write_typed_model
from r1trt.calibrate.calibrate import CalibrationConfig, calibrated_plan
from r1trt.export.io import ExportedModel, load_export
from r1trt.lowerings.bodies import computes, set_bodies
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE
from r1trt.ops.embedding import EMBEDDING
from r1trt.ops.hla_attention import HLA_ATTENTION
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.linear import LINEAR
from r1trt.ops.registry import LAYER_OPERATORS, operator_of
from r1trt.ops.rms_norm import RMS_NORM
from r1trt.ops.swiglu import SWIGLU
from r1trt.passes.pipeline import passes_for, run_passes, simulation_passes
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.plan_file import save_plan
from r1trt.precision.rules import plan_from_rules

TOKENS = 21
BACKENDS: tuple[Backend, ...] = ("tensorrt-rtx", "onnxruntime")


@dataclass(frozen=True)
class Case:
    """An edited export, the FP8 plan with its scales, and the plan that mixes all types."""

    exported: ExportedModel
    fp8: PrecisionPlan
    mixed: PrecisionPlan


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """One dense layer and five of experts."""
    exported = six_layers(tmp_path_factory.mktemp("mixed"), first_k_dense_replace=1, intermediate_size=96)
    edit_nodes(exported.model)
    set_bodies(exported.model, "onnxruntime")
    ir.save(exported.model, exported.path / "model.onnx")
    exported = load_export(exported.path)
    rules = plan_from_rules(exported.model, "ada", "fp8")
    config = CalibrationConfig(tokenizer=exported.path, tokens=512, chunk=64, method="amax")
    fp8 = calibrated_plan(rules, exported.model, exported.weight_base, config)
    return Case(exported, fp8, mixed_plan(fp8))


FEEDS = {
    "input_ids": np.random.default_rng(7).integers(2, 300, (1, TOKENS)),
    "seq_len": np.array([TOKENS]),
    "past_len": np.array([0]),
}


@pytest.fixture(scope="module")
def mixed_values(case: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[Backend, dict[str, Any]]:
    """What the mixed plan's layers compute, by backend."""
    return {name: executed(case, case.mixed, name, tmp_path_factory.mktemp(name)) for name in BACKENDS}


def executed(case: Case, plan: PrecisionPlan, backend: Backend, directory: Path) -> dict[str, Any]:
    """Every layer's inputs and results in the backend's arithmetic."""
    passes = passes_for(backend, plan, capacity=CAPACITY, sms=[89])
    if backend != "onnxruntime":
        passes += simulation_passes()
    model = run_passes(observed(case.exported.model), passes)
    path = write_typed_model(model, directory, name="observed.onnx")
    return run(ir.load(path), directory, FEEDS)


def errors_under(case: Case, plan: PrecisionPlan, seen: dict[str, Any]) -> list[LayerError]:
    return layer_errors(case.exported.model, case.exported.weight_base, plan, seen, FEEDS)


def test_the_plan_uses_every_type_of_every_kind_of_layer(case: Case) -> None:
    planned = [types_of(layer) for layer in case.mixed.layers.values()]
    # One layer of these cannot have all of them; it goes through others in the second rotation below.
    single = {EMBEDDING.name, SWIGLU.name}
    possible = {types_of(item) for layer in case.fp8.layers.values() for item in choices_for(layer)}
    assert {types for types in possible if types[0] not in single} <= set(planned)
    assert single == {op for op in LAYER_OPERATORS if [types[0] for types in planned].count(op) == 1}


def types_of(layer: LayerPrecision) -> tuple[str | None, ...]:
    return layer.op, layer.input, layer.weight, layer.output


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_of_other_types_are_right_too(case: Case, backend: Backend, tmp_path: Path) -> None:
    plan = mixed_plan(case.fp8, rotation=3)
    errors = errors_under(case, plan, executed(case, plan, backend, tmp_path))
    assert not [error for error in errors if not error.in_band]


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_layer_has_the_error_of_its_types(
    case: Case, mixed_values: dict[Backend, dict[str, Any]], backend: Backend
) -> None:
    errors = errors_under(case, case.mixed, mixed_values[backend])
    assert not [error for error in errors if not error.in_band]
    taken_for_another = [
        claimed
        for error in errors
        for layer in choices_for(case.fp8.layers[error.name])
        if (claimed := replace(error, layer=layer)).in_band and claimed.narrowest != error.narrowest
        if error.rounds and (claimed.narrowest == "fp32" or rounds_its_result(layer))
    ]
    assert not taken_for_another


def rounds_its_result(layer: LayerPrecision) -> bool:
    return layer.output == "bf16" or layer.weight in ("bf16", "fp8_e4m3")


def test_layers_whose_types_are_ignored_are_noticed(case: Case, tmp_path: Path) -> None:
    ignored = {}
    for op in (DYNAMIC_MOE.name, HLA_ATTENTION.name, LINEAR.name, RMS_NORM.name, DYNAMIC_ROPE.name):
        layers = [(name, item) for name, item in case.mixed.layers.items() if item.op == op]
        name = next(name for name, layer in layers if layer.output == "bf16")
        ignored[name] = choices_for(case.fp8.layers[name])[-1]
        assert (ignored[name].input, ignored[name].output) == ("fp32", "fp32")
    mutant = replace(case.mixed, layers={**case.mixed.layers, **ignored})
    seen = executed(case, mutant, "tensorrt-rtx", tmp_path)
    assert {error.name for error in errors_under(case, case.mixed, seen) if not error.in_band} == set(ignored)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_whose_attributes_are_ignored_are_noticed(
    case: Case, backend: Backend, tmp_path: Path
) -> None:
    plain = replace(case.exported, model=case.exported.model.clone())
    edit_nodes(plain.model, (Edit(),) * LAYERS)
    seen = executed(replace(case, exported=plain), case.mixed, backend, tmp_path)
    noticed = {error.name for error in errors_under(case, case.mixed, seen) if not error.in_band}
    edited = {f"model.layers.{at}.mlp.moe" for at, edit in enumerate(EDITS) if edit.top_k != Edit.top_k}
    edited |= {
        f"model.layers.{at}.self_attn.attention"
        for at, edit in enumerate(EDITS)
        if replace(edit, top_k=Edit.top_k) != Edit()
    }
    assert noticed == edited


def build(case: Case, tmp_path: Path, arch: str) -> BuildArtifact:
    plan = tmp_path / "mixed.yaml"
    save_plan(replace(case.mixed, arch=arch), plan)
    config = BuildConfig(model=case.exported.path, arch=arch, plan=plan, output=tmp_path / "engine")
    return BuildArtifact.read(build_engine(config))


@pytest.mark.slow
def test_tensorrt_rtx_builds_the_mixture_and_obeys(
    case: Case, mixed_values: dict[Backend, dict[str, Any]], tmp_path: Path
) -> None:
    built = build(case, tmp_path, "ada")
    check = built.manifest.network_check
    assert check["disobeyed"] == 0 and check["obeyed"] + check["unverified"] == len(case.mixed.layers)
    (engine,) = built.engines.items()
    assert engine[0] == 89 and engine[1].stat().st_size > 0
    found = run(ir.load(built.simulated_graph), built.path, FEEDS, ["logits"])
    np.testing.assert_allclose(found["logits"], mixed_values["tensorrt-rtx"]["logits"], atol=1e-5)


def test_the_cpu_runs_its_own_bodies_where_it_can(
    case: Case, mixed_values: dict[Backend, dict[str, Any]], tmp_path: Path
) -> None:
    built = build(case, tmp_path, "cpu")
    engine = ir.load(built.cpu_engine)
    calls = {str(node.name): node for node in engine.graph if operator_of(node) is not None}
    experts = {name for name, layer in case.mixed.layers.items() if layer.op == DYNAMIC_MOE.name}
    assert set(calls) == experts and all(computes("onnxruntime", node) for node in calls.values())
    # Only ONNX Runtime's own body of an attention looks whether a branch counts.
    own = {
        name
        for name, layer in case.mixed.layers.items()
        if layer.op == HLA_ATTENTION.name and (layer.input, layer.output) == ("fp32", "fp32")
    }
    branches = {str(node.name).rpartition("/")[0] for node in engine.graph if node.op_type == "If"}
    assert own and branches == own
    found = run(engine, built.path, FEEDS, ["logits"])
    np.testing.assert_allclose(found["logits"], mixed_values["onnxruntime"]["logits"], atol=1e-5)
