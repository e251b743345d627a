"""Measuring with TensorRT, as far as that goes without a GPU: the bindings' calls, and how names are read."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from small_engine import write_engine
from tiny_checkpoints import write_llama

from r1trt.artifacts.build import BuildDirectory
from r1trt.cli import main
from r1trt.estimate.planned import planned_model
from r1trt.estimate.source import sized_model
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import load_export
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.plan_file import save_plan
from r1trt.precision.rules import plan_from_rules
from r1trt.profile.measured import ExecutedNode, owners
from r1trt.profile.tensorrt import layer_profiler, layers_of_engine
from r1trt.runtime.session import SessionError

LAYER = "model.layers.0."


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Any:
    checkpoint = write_llama(tmp_path_factory.mktemp("model") / "llama")
    return planned_model(sized_model(str(checkpoint)), "hopper", "bf16", 64)


def described(*layers: Any) -> str:
    return json.dumps({"Layers": list(layers), "Bindings": []})


def test_the_profiler_is_one_of_the_bindings() -> None:
    trt = importlib.import_module("tensorrt_rtx")
    profiler = layer_profiler(trt)
    assert isinstance(profiler, trt.IProfiler)
    for name, milliseconds in (("a", 2.0), ("b", 0.5), ("a", 1.0)):
        profiler.report_layer_time(name, milliseconds)
    assert profiler.take() == pytest.approx({"a": 3e-3, "b": 5e-4})
    assert profiler.take() == {}


CALLS = {
    "IExecutionContext": ["profiler", "enqueue_emits_profile", "execute_async_v3"],
    "ICudaEngine": ["create_engine_inspector"],
    "EngineInspector": ["get_engine_information"],
    "LayerInformationFormat": ["JSON"],
    "IProfiler": ["report_layer_time"],
}


@pytest.mark.parametrize("name", CALLS)
def test_the_bindings_have_the_calls_that_are_made(name: str) -> None:
    trt = importlib.import_module("tensorrt_rtx")
    missing = [call for call in CALLS[name] if not hasattr(getattr(trt, name), call)]
    assert not missing, f"tensorrt_rtx.{name} lacks {missing}"


def test_layers_are_named_by_what_they_were_made_of(planned: Any) -> None:
    q, k = f"{LAYER}self_attn.q_proj", f"{LAYER}self_attn.k_proj"
    fused = f"[ONNX Layer: {q}/MatMul]\x1e[ONNX Layer: {k}/MatMul]\x1e[ONNX Layer: {q}/Cast]"
    inlined = f"[ONNX Layer: R1SwiGLU/Mul_2 | {LAYER}mlp.act (R1SwiGLU)]"
    layers = layers_of_engine(
        described(
            {"Name": "__myl_Fused_myl0_3", "Metadata": fused},
            {"Name": "__myl_Mul_myl0_4", "Metadata": inlined},
            {"Name": f"{LAYER}mlp.down_proj/MatMul + {LAYER}mlp_residual [profile 1]"},
            f"{LAYER}self_attn.attention [profile 1]",
            {"Name": "Reformatting CopyNode for Input Tensor 0", "Metadata": ""},
        ),
        planned.plan,
    )
    assert list(layers.values()) == [
        (q, k),
        (f"{LAYER}mlp.act",),
        (f"{LAYER}mlp.down_proj", f"{LAYER}mlp_residual"),
        (f"{LAYER}self_attn.attention",),
        (),
    ]


@pytest.mark.parametrize("description", ["", "[]", "{}", '{"Layers": [{}]}', '{"Layers": [1]}'])
def test_descriptions_of_another_form(description: str, planned: Any) -> None:
    with pytest.raises(SessionError, match="of another form"):
        layers_of_engine(description, planned.plan)


def test_a_fused_layer_is_its_heaviest(planned: Any) -> None:
    """What was fused counts with it; what appears nowhere, with what reads it, or reads the same."""
    plan: PrecisionPlan = planned.plan
    fused = (f"{LAYER}input_layernorm", f"{LAYER}self_attn.q_proj")
    nodes = [
        ExecutedNode(name="fused", layers=fused, seconds=1.0),
        ExecutedNode(name="attention", layers=(f"{LAYER}self_attn.attention",), seconds=1.0),
    ]
    found = owners(planned, nodes, {fused[1]: 2.0, fused[0]: 1.0})
    assert found[fused[0]] == found[fused[1]] == fused[1]
    assert found[f"{LAYER}self_attn.k_proj"] == found[f"{LAYER}self_attn.v_proj"] == fused[1]
    assert found[f"{LAYER}self_attn.rope"] == f"{LAYER}self_attn.attention"
    assert found.keys() == plan.layers.keys()


def test_without_a_gpu_it_is_said_why_nothing_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No GPU is an SM1, so this holds with a driver too."""
    checkpoint = write_llama(tmp_path / "model")
    export = export_checkpoint(
        ExportConfig(checkpoint=checkpoint, output=tmp_path / "export", max_seq_len=64)
    )
    engine = write_engine(
        tmp_path / "engine", backend="tensorrt-rtx", arch="ada", sms=[1], precision="fp8", max_batch_size=1,
        engines=[{"file": "engine.sm1.plan", "sm": 1}], capacity=64, max_input_len=64,
    )  # fmt: skip
    (engine / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    save_plan(
        plan_from_rules(load_export(export).model, "ada", "fp8"), BuildDirectory(path=engine).precision_plan
    )
    assert main(["profile", str(engine)]) == 0
    page = capsys.readouterr().out
    assert "fp8 on L40S" in page and "note: not measured: " in page
    # The types are the build's own: the head stays BF16.
    assert main(["profile", str(engine), "--breakdown", "part", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["phases"][0]["rows"]}
    assert set(rows["lm_head"]["flops_by_type"]) == {"bf16"}
    assert set(rows["self_attn.q_proj"]["flops_by_type"]) == {"fp8_e4m3"}
    (engine / "config.json").write_text(
        (checkpoint / "config.json").read_text().replace('_layers": 2', '_layers": 3')
    )
    assert main(["profile", str(engine)]) == 1
    assert "The plan's layers are not those of the model" in capsys.readouterr().err
