"""Whole tiny checkpoints through the pipeline: typed, written, simulated, compared with the export."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from fp8_checkpoints import RAGGED, quantize_checkpoint
from passes.typed import (
    model_with_capacity,
    model_without_cache,
    simulated_model_from_typed,
    typed_model_from_plan,
)
from safetensors import safe_open
from tiny_checkpoints import write_deepseek, write_llama, write_qwen2, write_r1_asa

from r1trt.arch import Backend, BuildPrecision
from r1trt.build.write_typed import write_typed_model
from r1trt.calibrate.calibrate import CalibrationConfig, calibrated_plan
from r1trt.config import MoeConfig
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import ExportedModel, load_export
from r1trt.ops.registry import OPERATORS
from r1trt.passes.check_onnx import proto_without_weights
from r1trt.passes.pipeline import passes_for, run_passes
from r1trt.precision.checks import layer_nodes
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.rules import Requantize, is_in_block_fp8, plan_from_rules

CAPACITY, PROMPT = 64, 20
SHARED = {"num_shared_experts": 1, "shared_intermediate_size": 48}
PLUGIN_SIZES = {"kv_lora_rank": 512, "qk_rope_head_dim": 64}
EVERY_EXPERT = {"first_k_dense_replace": 0, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 8}
CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "llama": lambda path: write_llama(path, tokenizer=True),
    "llama-tied-bf16": lambda path: write_llama(
        path, tokenizer=True, tie_word_embeddings=True, dtype="bfloat16"
    ),
    "qwen2": lambda path: write_qwen2(path, tokenizer=True),
    "r1-asa": lambda path: write_r1_asa(path, tokenizer=True, **SHARED),
    "r1-asa-no-gate": lambda path: write_r1_asa(path, tokenizer=True, hla_gate=False),
    # Every expert is taken, so that rounding changes no routing; the plugin has this size of latents.
    "deepseek": lambda path: write_deepseek(
        path,
        tokenizer=True,
        **PLUGIN_SIZES,
        **EVERY_EXPERT,
    ),
    "deepseek-block-fp8": lambda path: quantize_checkpoint(
        write_deepseek(path.parent / "plain", tokenizer=True, **{**RAGGED, **PLUGIN_SIZES, **EVERY_EXPERT}),
        path,
    ),
}
# Relative RMS error of logits: two layers of random weights, where rounding may change R1-ASA's routing.
TOLERANCES: dict[BuildPrecision, float] = {"fp32": 1e-5, "bf16": 0.04, "fp8": 0.35}


@pytest.fixture(scope="module", params=CHECKPOINTS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    directory = tmp_path_factory.mktemp("model")
    checkpoint = CHECKPOINTS[request.param](directory / "checkpoint")
    return load_export(
        export_checkpoint(
            ExportConfig(checkpoint=checkpoint, output=directory / "export", max_seq_len=CAPACITY)
        )
    )


_PLANS: dict[tuple[Path, BuildPrecision], PrecisionPlan] = {}


def plan_for(exported: ExportedModel, precision: BuildPrecision) -> PrecisionPlan:
    """The calibrated plan, made once for each export."""
    key = (exported.path, precision)
    if key not in _PLANS:
        _PLANS[key] = calibrated(exported, precision)
    return _PLANS[key]


def calibrated(exported: ExportedModel, precision: BuildPrecision) -> PrecisionPlan:
    own = any(map(is_in_block_fp8, layer_nodes(exported.model).values()))
    requantize: Requantize = "tensor" if own and precision == "fp8" else "none"
    plan = plan_from_rules(exported.model, "ada", precision, requantize=requantize)
    config = CalibrationConfig(tokenizer=exported.path, tokens=512, chunk=64)
    return calibrated_plan(plan, exported.model, exported.weight_base, config)


def feeds_for(session: ort.InferenceSession) -> dict[str, Any]:
    lengths = {"seq_len": np.array([PROMPT]), "past_len": np.array([0])}
    tokens = {"input_ids": np.random.default_rng(0).integers(0, 300, (1, PROMPT))}
    known = lengths | tokens
    zeros = {
        item.name: np.zeros([1, *item.shape[1:]], np.float32)
        for item in session.get_inputs()
        if item.name not in known
    }
    names = {item.name for item in session.get_inputs()}
    return {name: value for name, value in (known | zeros).items() if name in names}


def logits_of(session: ort.InferenceSession) -> np.ndarray:
    logits: np.ndarray = session.run(["logits"], feeds_for(session))[0]
    return logits


def exported_session(exported: ExportedModel, model: ir.Model | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    key = "session.model_external_initializers_file_folder_path"
    options.add_session_config_entry(key, str(exported.weight_base))
    proto = ir.to_proto(model or exported.model)
    return ort.InferenceSession(proto.SerializeToString(), options)


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.sqrt(((got - want) ** 2).mean() / (want**2).mean()))


@pytest.mark.parametrize("precision", TOLERANCES)
def test_the_simulation_agrees_with_the_export(
    exported: ExportedModel, precision: BuildPrecision, tmp_path: Path
) -> None:
    typed = typed_model_from_plan(exported.model, plan_for(exported, precision), "tensorrt-rtx")
    write_typed_model(typed, tmp_path)
    ir.save(simulated_model_from_typed(typed), tmp_path / "simulated.onnx")
    got = logits_of(ort.InferenceSession(tmp_path / "simulated.onnx"))
    error = relative_error(got, logits_of(exported_session(exported)))
    assert error < TOLERANCES[precision]
    if precision != "fp32":
        assert error > 0, "a narrow plan that changes nothing was not applied"


@pytest.mark.parametrize("precision", TOLERANCES)
def test_written_files_stand_alone(
    exported: ExportedModel, precision: BuildPrecision, tmp_path: Path
) -> None:
    typed = typed_model_from_plan(exported.model, plan_for(exported, precision), "tensorrt-rtx")
    path = write_typed_model(typed, tmp_path)
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted([path.name, "weights.safetensors"])
    proto = onnx.load(path, load_external_data=False)
    stored: dict[str, list[int]] = {}
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            assert entries["location"] == "weights.safetensors"
            stored[tensor.name] = list(tensor.dims)
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        assert {name: list(file.get_tensor(name).shape) for name in file.keys()} == stored  # noqa: SIM118  # no mapping
    onnx.checker.check_model(path, full_check=True)


def test_every_operator_keeps_its_node_and_gets_a_body(exported: ExportedModel) -> None:
    plan = plan_for(exported, "fp8")
    names = [node.name for node in exported.model.graph if node.op_type in OPERATORS]
    backends: dict[Backend, bool] = {"tensorrt-rtx": True, "tensorrt": False}
    for backend, bodies in backends.items():
        typed = typed_model_from_plan(exported.model, plan, backend)
        assert [node.name for node in typed.graph if node.op_type in OPERATORS] == names
        assert bool(typed.functions) == bodies


def test_a_graph_without_bodies_is_simulated_alike(exported: ExportedModel, tmp_path: Path) -> None:
    plan = plan_for(exported, "bf16")
    results = []
    backends: tuple[Backend, ...] = ("tensorrt", "tensorrt-rtx")
    for backend in backends:
        directory = tmp_path / backend
        directory.mkdir()
        typed = typed_model_from_plan(exported.model, plan, backend)
        write_typed_model(typed, directory)
        ir.save(simulated_model_from_typed(typed), directory / "simulated.onnx")
        results.append(logits_of(ort.InferenceSession(directory / "simulated.onnx")))
    np.testing.assert_array_equal(*results)


def test_caches_and_logits_have_the_planned_types(exported: ExportedModel) -> None:
    typed = typed_model_from_plan(exported.model, plan_for(exported, "bf16"), "tensorrt")
    for value in [*typed.graph.inputs, *typed.graph.outputs]:
        if "cache" in str(value.name):
            assert value.dtype == ir.DataType.BFLOAT16, value.name
    outputs = {str(value.name): value.dtype for value in typed.graph.outputs}
    assert outputs["logits"] == ir.DataType.FLOAT
    assert list(outputs) == [str(value.name) for value in exported.model.graph.outputs]


def test_experts_are_stored_once_and_stacked(exported: ExportedModel) -> None:
    if not any(node.op_type == "R1DynamicMoE" for node in exported.model.graph):
        assert not any(isinstance(layer.mlp, MoeConfig) for layer in exported.config.layers)
        return
    typed = typed_model_from_plan(exported.model, plan_for(exported, "fp8"), "tensorrt")
    names = set(typed.graph.initializers)
    assert "model.layers.0.mlp.experts.gate_up.weight.fp8_e4m3" in names
    assert not any("experts.0.gate_proj" in name for name in names)
    joined = [value for node in typed.graph if node.op_type == "Concat" for value in node.inputs]
    assert all(value is not None and value.const_value is None for value in joined)


def test_without_a_cache(exported: ExportedModel) -> None:
    scoring = model_without_cache(exported.model)
    assert {str(value.name) for value in scoring.graph.inputs} == {"input_ids", "seq_len"}
    assert [str(value.name) for value in scoring.graph.outputs] == ["logits"]
    want = logits_of(exported_session(exported))
    np.testing.assert_allclose(logits_of(exported_session(exported, scoring)), want, atol=1e-4)


def test_a_plan_fits_the_graph_without_a_cache(exported: ExportedModel) -> None:
    plan = plan_for(exported, "bf16")
    typed = typed_model_from_plan(model_without_cache(exported.model), plan, "tensorrt-rtx")
    assert [str(value.name) for value in typed.graph.outputs] == ["logits"]


def test_another_capacity(exported: ExportedModel) -> None:
    longer = model_with_capacity(exported.model, 2 * CAPACITY)
    session = exported_session(exported, longer)
    caches = [item.shape for item in session.get_inputs() if "_cache." in item.name]
    assert caches and {shape[2] for shape in caches} == {2 * CAPACITY}
    np.testing.assert_allclose(logits_of(session), logits_of(exported_session(exported)), atol=1e-4)


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt-rtx", "tensorrt"])
def test_every_pass_leaves_valid_onnx(exported: ExportedModel, backend: Backend) -> None:
    seen: list[str] = []
    passes = passes_for(backend, plan_for(exported, "fp8"), capacity=CAPACITY, sms=[89])

    def check(name: str, model: ir.Model) -> None:
        copy = model.clone()
        for function in exported.model.functions.values():
            copy.functions.setdefault(function.identifier(), function.clone())
        onnx.checker.check_model(proto_without_weights(copy))
        seen.append(name)

    run_passes(exported.model, passes, after_pass=check)
    assert seen == [type(step).__name__ for step in passes]


def test_writing_reports_its_progress(exported: ExportedModel, tmp_path: Path) -> None:
    typed = typed_model_from_plan(exported.model, plan_for(exported, "bf16"), "tensorrt")
    done: list[int] = []
    write_typed_model(typed, tmp_path, progress=lambda _phase, at, _total: done.append(at))
    assert done == sorted(done) and len(done) > 5


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    """Two layers of experts."""
    directory = tmp_path_factory.mktemp("experts")
    checkpoint = write_r1_asa(directory / "checkpoint", tokenizer=True)
    config = ExportConfig(checkpoint=checkpoint, output=directory / "export", max_seq_len=CAPACITY)
    return load_export(export_checkpoint(config))


@pytest.mark.parametrize(
    ("around", "inside", "layers"),
    [("fp8", "bf16", [1]), ("bf16", "fp32", [1]), ("bf16", "fp32", [0, 1]), ("fp32", "bf16", [0, 1])],
)
def test_expert_types_may_differ_from_all_others(
    experts: ExportedModel, around: BuildPrecision, inside: BuildPrecision, layers: list[int], tmp_path: Path
) -> None:
    plan, other = plan_for(experts, around), plan_for(experts, inside)
    keys = [f"model.layers.{layer}.mlp.moe" for layer in layers]
    mixed = replace(plan, layers={**plan.layers, **{key: other.layers[key] for key in keys}})
    typed = typed_model_from_plan(experts.model, mixed, "tensorrt-rtx")
    write_typed_model(typed, tmp_path)
    ir.save(simulated_model_from_typed(typed), tmp_path / "simulated.onnx")
    got = logits_of(ort.InferenceSession(tmp_path / "simulated.onnx"))
    tolerance = max(TOLERANCES[around], TOLERANCES[inside])
    assert 0 < relative_error(got, logits_of(exported_session(experts))) < tolerance


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    ort.set_default_logger_severity(3)
    yield
