"""Which layers are TensorRT's own and which plugins: by rule, by option, and by an edited plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from tiny_checkpoints import write_deepseek, write_llama, write_r1_asa

from r1trt.checkpoint import checkpoint_from_dir
from r1trt.errors import PlanError
from r1trt.export.model import onnx_from_checkpoint
from r1trt.inspect.plan import plan_table
from r1trt.ops.registry import OPERATORS
from r1trt.precision.checks import check_plan
from r1trt.precision.implementations import plugin_layers, with_implementations
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.plan_file import plan_from_yaml, yaml_from_plan
from r1trt.precision.rules import plan_from_rules

ROPE, ATTENTION, MOE = "self_attn.rope", "self_attn.attention", "mlp.moe"
MODELS: dict[str, tuple[Callable[..., Path], dict[str, Any], set[str]]] = {
    "llama": (write_llama, {}, set()),
    "r1-asa": (write_r1_asa, {}, {ROPE, ATTENTION, MOE}),
    "no-gate": (write_r1_asa, {"hla_gate": False}, {ROPE, MOE}),
    "no-temperature": (write_r1_asa, {"rope_temperature_alpha": 0.0}, {ATTENTION, MOE}),
    "deepseek": (write_deepseek, {}, {ATTENTION, MOE}),
}


def exported(name: str, tmp_path: Path) -> ir.Model:
    write, changes, _ = MODELS[name]
    return onnx_from_checkpoint(checkpoint_from_dir(write(tmp_path / name, **changes)), 64)


def edited(plan: PrecisionPlan, suffix: str, **changes: Any) -> PrecisionPlan:
    layers = {name: replace(layer, **changes) if name.endswith(suffix) else layer
              for name, layer in plan.layers.items()}  # fmt: skip
    return replace(plan, layers=layers)


@pytest.mark.parametrize("name", MODELS)
def test_plugins_are_what_tensorrt_has_no_layers_for(name: str, tmp_path: Path) -> None:
    model = exported(name, tmp_path)
    plan = plan_from_rules(model, "hopper", "bf16")
    chosen = {layer for layer in plan.layers if plan.layers[layer].implementation is not None}
    assert chosen == {layer for layer, item in plan.layers.items() if item.op in OPERATORS}
    assert {layer.split(".", 3)[-1] for layer in plugin_layers(plan)} == MODELS[name][2]
    everything = plan_from_rules(model, "hopper", "bf16", plugins="all")
    assert plugin_layers(everything) == chosen
    assert plan_from_yaml(yaml_from_plan(plan)) == plan
    table = plan_table(plan)
    shown = {row[1]: row[table.header.index("implementation")] for row in table.rows}
    assert shown["R1DynamicRoPE"] == ("plugin" if ROPE in MODELS[name][2] else "native")
    assert (
        shown["R1Linear"] == ""
        and "implementation" not in plan_table(plan_from_rules(model, "ada", "bf16")).header
    )


@pytest.mark.parametrize("backend", ["tensorrt-rtx", "onnxruntime"])
def test_builders_without_plugins_have_no_choice(backend: Any, tmp_path: Path) -> None:
    model = exported("llama", tmp_path)
    arch = "cpu" if backend == "onnxruntime" else "ada"
    plan = plan_from_rules(model, arch, "bf16", backend=backend)
    assert {layer.implementation for layer in plan.layers.values()} == {None}
    check_plan(edited(plan, ROPE, implementation="native"), arch, backend)
    with pytest.raises(PlanError, match="takes no plugins") as caught:
        check_plan(edited(plan, ROPE, implementation="plugin"), arch, backend)
    assert "layers.0.self_attn.rope': implementation is plugin" in caught.value.details["found"]


def test_what_a_plan_says_stays_and_the_rest_is_decided(tmp_path: Path) -> None:
    model = exported("llama", tmp_path)
    open_plan = edited(plan_from_rules(model, "hopper", "bf16"), "", implementation=None)
    given = edited(open_plan, ROPE, implementation="plugin")
    plan = with_implementations(given, model, "needed")
    assert plan.layers["model.layers.0.self_attn.rope"].implementation == "plugin"
    assert plan.layers["model.layers.0.self_attn.attention"].implementation == "native"
    assert with_implementations(open_plan, model, "needed") == plan_from_rules(model, "hopper", "bf16")


@pytest.mark.parametrize(
    ("name", "suffix", "use", "says"),
    [
        ("r1-asa", MOE, "needed", "is native, but it routes tokens to experts"),
        ("r1-asa", ATTENTION, "needed", "is native, but its lambda gate mixes two branches"),
        ("r1-asa", ROPE, "needed", "is native, but it has a temperature"),
        ("deepseek", ATTENTION, "needed", "is native, but its keys are latents"),
        ("llama", ROPE, "all", "is native"),
    ],
)
def test_native_layers_that_cannot_be_are_refused(
    name: str, suffix: str, use: Any, says: str, tmp_path: Path
) -> None:
    model = exported(name, tmp_path)
    plan = edited(plan_from_rules(model, "hopper", "bf16"), f"0.{suffix}", implementation="native")
    if f"model.layers.0.{suffix}" not in plan.layers:
        plan = edited(plan, f"1.{suffix}", implementation="native")
    title = "contradict each other" if use == "all" else "layers that it does not have"
    with pytest.raises(PlanError, match=title) as caught:
        with_implementations(plan, model, use)
    assert says in caught.value.details["found"]


def test_layers_without_a_plugin_have_no_implementation(tmp_path: Path) -> None:
    plan = plan_from_rules(exported("llama", tmp_path), "hopper", "bf16")
    with pytest.raises(PlanError, match="implementation is native, but R1Linear has no plugin to choose"):
        edited(plan, "q_proj", implementation="native")


def test_native_layers_take_types_that_no_plugin_computes_in(tmp_path: Path) -> None:
    plan = plan_from_rules(exported("llama", tmp_path), "hopper", "fp32")
    check_plan(plan, "hopper", "tensorrt")
    with pytest.raises(PlanError, match="its plugins compute in other types"):
        check_plan(edited(plan, ATTENTION, implementation="plugin"), "hopper", "tensorrt")


def test_an_unknown_implementation_is_refused_with_its_line(tmp_path: Path) -> None:
    text = yaml_from_plan(plan_from_rules(exported("llama", tmp_path), "hopper", "bf16"))
    with pytest.raises(PlanError) as caught:
        plan_from_yaml(text.replace("implementation: native", "implementation: own", 1))
    assert "implementation is 'own', can be native, plugin" in caught.value.details["found"]
