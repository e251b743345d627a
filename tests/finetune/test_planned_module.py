"""A module under a plan beside what the project's own graph computes by the same plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune.finetuning import SCALE, exported, plan_with_scales, training_text, write_model
from numpy.typing import NDArray
from tiny_checkpoints import write_transformers

from r1trt.calibrate.weights import weight_scales
from r1trt.export.io import ExportedModel
from r1trt.finetune.planned_module import PlannedModule
from r1trt.graph.codes import FP8_CODES
from r1trt.model import load_checkpoint
from r1trt.precision.plan import PrecisionPlan
from r1trt.progress import ignore
from r1trt.search.chain import ModelChain


def planned(checkpoint: Path, plan: PrecisionPlan) -> PlannedModule:
    found = PlannedModule(load_checkpoint(checkpoint, torch.float32), plan)
    found.round_weights()
    return found


def complete(plan: PrecisionPlan, export: ExportedModel) -> PrecisionPlan:
    layers = dict(plan.layers)
    for key, scales in weight_scales(plan, export.model, ignore).items():
        layers[key] = replace(layers[key], **scales)
    return replace(plan, layers=layers)


def in_fp32(plan: PrecisionPlan) -> PrecisionPlan:
    """The same quantized products, and nothing rounded between them."""
    layers = {}
    for key, layer in plan.layers.items():
        wide = {name: "fp32" for name in ("input", "weight", "output") if getattr(layer, name) == "bf16"}
        layers[key] = replace(layer, **wide)
    return replace(plan, layers=layers)


def logits_of_graph(
    export: ExportedModel, plan: PrecisionPlan, ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    chain = ModelChain(export.model, export.weight_base, threads=1)
    [state] = chain.hidden_states(plan, [ids], "running")
    result: NDArray[np.float32] = chain.session(chain.head, plan)(state)[0]
    return result


@pytest.fixture(params=["R1-ASA", "Llama", "Qwen3, tied"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    if request.param == "R1-ASA":
        return write_model(path)
    tied = request.param.endswith("tied")
    architecture = "Qwen3ForCausalLM" if tied else "LlamaForCausalLM"
    extra = {"head_dim": 16} if tied else {}
    return write_transformers(
        path, architecture, dtype="bfloat16", tokenizer=True, tie_word_embeddings=tied, **extra
    )


def test_logits_are_those_of_the_planned_graph(checkpoint: Path, tmp_path: Path) -> None:
    export = exported(checkpoint, tmp_path / "export")
    plan = plan_with_scales(export)
    ids = training_text(checkpoint).windows[0]
    with torch.no_grad():
        found = planned(checkpoint, plan).module(torch.from_numpy(ids)[None])[0].numpy()
        unquantized = load_checkpoint(checkpoint, torch.float32)(torch.from_numpy(ids)[None])[0].numpy()
    full = complete(plan, export)
    exact, rounded = (logits_of_graph(export, item, ids) for item in (in_fp32(full), full))
    # A sum in another order, or BF16 between products, now and then moves a value to the next code.
    assert distance(found, exact) < 0.1 * distance(unquantized, exact)
    assert distance(found, rounded) < 0.8 * distance(unquantized, rounded)


def distance(tested: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    return float(np.square(tested - reference).mean() ** 0.5)


def test_weights_are_the_codes_that_a_build_stores(tmp_path: Path) -> None:
    checkpoint = write_model(tmp_path / "checkpoint")
    export = exported(checkpoint, tmp_path / "export")
    plan = plan_with_scales(export)
    found = planned(checkpoint, plan).module.state_dict()
    stored = load_checkpoint(checkpoint, torch.float32).state_dict()
    scales = weight_scales(plan, export.model, ignore)
    expected = dict(stored)
    for layer in range(2):
        for name in "qkvo":
            key = f"model.layers.{layer}.self_attn.{name}_proj"
            expected[f"{key}.weight"] = coded(stored[f"{key}.weight"], scales[key]["weight_scale"])
        experts = scales[f"model.layers.{layer}.mlp.moe"]
        for index in range(9):
            expert = "shared_expert" if index == 8 else f"experts.{index}"
            for name, scale in (("gate", "weight_scale"), ("up", "weight_scale"), ("down", "down_scale")):
                key = f"model.layers.{layer}.mlp.{expert}.{name}_proj.weight"
                expected[key] = coded(stored[key], experts[scale][index])
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, msg=name)


def coded(weight: torch.Tensor, scale: float) -> torch.Tensor:
    scale = np.float32(scale)
    return torch.from_numpy(FP8_CODES.codes(weight.numpy(), scale).astype(np.float32) * scale)


def test_a_plan_decides_what_is_quantized(tmp_path: Path) -> None:
    checkpoint = write_model(tmp_path / "checkpoint")
    plan = plan_with_scales(exported(checkpoint, tmp_path / "export"))
    key = "model.layers.1.self_attn.q_proj"
    wide = replace(plan.layers[key], input="bf16", weight="bf16", input_scale=None)
    found = planned(checkpoint, replace(plan, layers={**plan.layers, key: wide}))
    stored = load_checkpoint(checkpoint, torch.float32).state_dict()
    changed = {
        name for name, value in found.module.state_dict().items() if not torch.equal(value, stored[name])
    }
    assert f"{key}.weight" not in changed and f"{key.replace('q_proj', 'k_proj')}.weight" in changed
    assert all(name.endswith("_proj.weight") for name in changed)
    assert (key, "input_scale") not in found.ranges
    assert found.activation_scales()["model.layers.1.mlp.moe"] == {
        "input_scale": pytest.approx(SCALE),
        "mid_scale": pytest.approx(SCALE),
    }


def test_masters_are_finer_than_what_is_stored(tmp_path: Path) -> None:
    checkpoint = write_model(tmp_path / "checkpoint", num_hidden_layers=1)
    found = planned(checkpoint, plan_with_scales(exported(checkpoint, tmp_path / "export")))
    name = "model.layers.0.self_attn.q_proj.weight"
    stored = load_checkpoint(checkpoint, torch.float32).state_dict()[name]
    found.masters[name] += 2**-20
    found.store_weights()
    torch.testing.assert_close(found.parameters[name].detach(), (stored + 2**-20).bfloat16().float())
    assert torch.equal(found.parameters[name].detach().bfloat16().float(), found.parameters[name].detach())
