"""Calibration of tiny checkpoints against ranges that PyTorch's hooks see."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from calibrate.calibrations import TEXT, TOKENS, calibrated, chunks_of, config_for, exported, seen_by_hooks
from safetensors.torch import load_file
from tiny_checkpoints import write_llama, write_r1_asa

from r1trt.calibrate.calibrate import calibrated_plan
from r1trt.calibrate.ranges import MSE_FRACTIONS
from r1trt.errors import CheckpointError
from r1trt.export.io import ExportedModel
from r1trt.graph.codes import FP8_CODES
from r1trt.graph.weight_grid import FRACTIONS
from r1trt.model import load_checkpoint
from r1trt.precision.rules import plan_from_rules

RTOL = 1e-5


def amax_of(tensors: list[torch.Tensor]) -> float:
    return max(float(tensor.abs().max()) for tensor in tensors if tensor.numel())


@pytest.fixture(scope="module")
def asa(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportedModel]:
    directory = tmp_path_factory.mktemp("asa")
    shared = {"num_shared_experts": 1, "shared_intermediate_size": 48}
    checkpoint = write_r1_asa(directory / "checkpoint", tokenizer=True, **shared)
    return checkpoint, exported(checkpoint, directory / "export")


def test_ranges_equal_pytorchs(asa: tuple[Path, ExportedModel], tmp_path: Path) -> None:
    checkpoint, model = asa
    config = config_for(checkpoint, tmp_path)
    plan, seen = calibrated(model, config), seen_by_hooks(checkpoint, config)
    assert not plan.missing_scales
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        key = f"model.layers.1.self_attn.{name}"
        assert plan.layers[key].input_scale == pytest.approx(amax_of(seen[key]) / 448, rel=RTOL)


def test_expert_ranges_cover_routed_tokens_only(asa: tuple[Path, ExportedModel], tmp_path: Path) -> None:
    checkpoint, model = asa
    config = config_for(checkpoint, tmp_path)
    layer = calibrated(model, config).layers["model.layers.0.mlp.moe"]
    seen = seen_by_hooks(checkpoint, config)
    mids = [
        x
        for name, found in seen.items()
        if name.startswith("model.layers.0.mlp.")
        for x in found
        if name.endswith("down_proj")
    ]
    inputs = [
        x
        for name, found in seen.items()
        if name.startswith("model.layers.0.mlp.")
        for x in found
        if name.endswith("gate_proj")
    ]
    assert mids and inputs
    assert layer.mid_scale == pytest.approx(amax_of(mids) / 448, rel=RTOL)
    assert layer.input_scale == pytest.approx(amax_of(inputs) / 448, rel=RTOL)


def test_expert_weight_scales(asa: tuple[Path, ExportedModel], tmp_path: Path) -> None:
    checkpoint, model = asa
    layer = calibrated(model, config_for(checkpoint, tmp_path)).layers["model.layers.0.mlp.moe"]
    state = load_checkpoint(checkpoint, torch.float32).state_dict()
    experts = [f"model.layers.0.mlp.experts.{e}" for e in range(8)] + ["model.layers.0.mlp.shared_expert"]

    def amax(*names: str) -> float:
        return max(float(state[f"{name}.weight"].abs().max()) for name in names)

    gate_up = [amax(f"{name}.gate_proj", f"{name}.up_proj") / 448 for name in experts]
    assert layer.weight_scale == pytest.approx(gate_up, rel=1e-6)
    assert layer.down_scale == pytest.approx([amax(f"{name}.down_proj") / 448 for name in experts], rel=1e-6)


def test_the_error_search_finds_the_best_candidate(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True)
    model = exported(checkpoint, tmp_path / "export")
    config = config_for(checkpoint, tmp_path, method="mse")
    key = "model.layers.1.mlp.down_proj"
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    seen: list[np.ndarray] = []
    module.get_submodule(key).register_forward_hook(
        lambda _m, inputs, _y: seen.append(inputs[0].numpy().ravel())
    )
    with torch.no_grad():
        for chunk in chunks_of(config):
            module(torch.from_numpy(chunk)[None])
    x = np.concatenate(seen)
    candidates = [np.float32(np.abs(x).max() / 448 * part) for part in MSE_FRACTIONS[FP8_CODES.name]]
    errors = [
        float(((FP8_CODES.codes(x, scale).astype(np.float32) * scale - x) ** 2).sum()) for scale in candidates
    ]
    want = candidates[int(np.argmin(errors))]
    assert calibrated(model, config).layers[key].input_scale == pytest.approx(float(want), rel=RTOL)


def test_row_scales(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True)
    model = exported(checkpoint, tmp_path / "export")
    layer = calibrated(model, config_for(checkpoint, tmp_path), "channel").layers[
        "model.layers.0.mlp.up_proj"
    ]
    weight = model.model.graph.initializers["model.layers.0.mlp.up_proj.weight"].const_value
    assert weight is not None and layer.weight_axis == 0
    assert layer.weight_scale == pytest.approx(np.abs(weight.numpy()).max(axis=1) / 448, rel=1e-6)


def test_layers_of_one_input_and_two_types_have_scales_of_their_own(
    asa: tuple[Path, ExportedModel], tmp_path: Path
) -> None:
    checkpoint, model = asa
    config = config_for(checkpoint, tmp_path)
    plan = plan_from_rules(model.model, "ada", "fp8")
    names = [f"model.layers.0.self_attn.{name}_proj" for name in "qkv"]
    types = {names[1]: {"input": "int8", "weight": "int8"}, names[2]: {"input": "bf16", "weight": "int8"}}
    layers = {name: replace(plan.layers[name], **kinds) for name, kinds in types.items()}
    done = calibrated_plan(
        replace(plan, layers={**plan.layers, **layers}), model.model, model.weight_base, config
    )
    amax = amax_of(seen_by_hooks(checkpoint, config)[names[0]])
    found = [done.layers[name].input_scale for name in names]
    assert found == [pytest.approx(amax / 448, rel=RTOL), pytest.approx(amax / 127, rel=RTOL), None]
    weight = model.model.graph.initializers[f"{names[2]}.weight"].const_value
    assert weight is not None
    assert done.layers[names[1]].weight_axis is None
    assert done.layers[names[2]].weight_scale == pytest.approx(
        np.abs(weight.numpy()).max(axis=1) / 127, rel=1e-6
    )


def test_the_error_search_finds_the_best_candidate_of_each_row(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True)
    model = exported(checkpoint, tmp_path / "export")
    key = "model.layers.0.mlp.up_proj"
    layer = calibrated(model, config_for(checkpoint, tmp_path, method="mse"), "channel").layers[key]
    state = load_file(checkpoint / "model.safetensors")
    rows = state[f"{key}.weight"].float().numpy()
    assert isinstance(layer.weight_scale, tuple) and len(layer.weight_scale) == len(rows)
    smaller = 0
    for row, scale in zip(rows, layer.weight_scale, strict=True):
        candidates = [np.float32(np.abs(row).max() / 448 * part) for part in FRACTIONS["fp8_e4m3"]]
        errors = [
            float(((FP8_CODES.codes(row, at).astype(np.float32) * at - row) ** 2).sum()) for at in candidates
        ]
        chosen = int(np.argmin(np.abs(np.array(candidates) - scale)))
        assert scale == pytest.approx(float(candidates[chosen]), rel=1e-6)
        assert errors[chosen] <= min(errors) * (1 + 1e-5)
        smaller += chosen > 0
    assert smaller, "the search never found anything smaller"


def test_weights_alone_need_no_text(asa: tuple[Path, ExportedModel], tmp_path: Path) -> None:
    checkpoint, model = asa
    config = replace(config_for(checkpoint, tmp_path), text=tmp_path / "nowhere.txt")
    plan = plan_from_rules(model.model, "ampere", "int8")
    done = calibrated_plan(plan, model.model, model.weight_base, config)
    assert not done.missing_scales and "text_sha256" not in done.calibration


def test_given_scales_stay(asa: tuple[Path, ExportedModel], tmp_path: Path) -> None:
    checkpoint, model = asa
    config = config_for(checkpoint, tmp_path)
    full = calibrated(model, config)
    kept, filled = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"
    given = replace(full.layers[kept], input_scale=0.5, weight_scale=0.25)
    lacking = replace(full.layers[filled], input_scale=None, weight_scale=None)
    partial = replace(full, layers={**full.layers, kept: given, filled: lacking})
    done = calibrated_plan(partial, model.model, model.weight_base, config)
    assert done.layers == {**full.layers, kept: given}


def test_progress_and_record(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True)
    model = exported(checkpoint, tmp_path / "export")
    calls: list[tuple[str, int, int]] = []
    config = config_for(checkpoint, tmp_path)
    done = calibrated(model, config, progress=lambda *call: calls.append(call))
    assert {phase for phase, _, _ in calls} == {"measuring ranges", "measuring weights"}
    assert all(done <= total for _, done, total in calls)
    assert done.calibration["method"] == "amax" and int(done.calibration["tokens"]) >= TOKENS


def test_conversations_are_written_out_with_the_checkpoints_own_template(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True)
    model = exported(checkpoint, tmp_path / "export")
    turns = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}]
    chat, plain = tmp_path / "chat.jsonl", tmp_path / "plain.jsonl"
    chat.write_text(json.dumps({"messages": turns}))
    (checkpoint / "chat_template.jinja").write_text(
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    )
    plain.write_text(json.dumps({"text": f"[user] {TEXT}[assistant] {TEXT}"}))
    plans = [calibrated(model, config_for(checkpoint, tmp_path, text=text)) for text in (chat, plain)]
    assert plans[0].layers == plans[1].layers


@pytest.mark.parametrize("blank", ["", " " * 50_000], ids=["words", "blanks first"])
def test_what_lies_far_behind_in_a_long_text_is_not_read(
    blank: str, asa: tuple[Path, ExportedModel], tmp_path: Path
) -> None:
    checkpoint, model = asa
    near, far = tmp_path / "near.txt", tmp_path / "far.txt"
    near.write_text(blank + TEXT * 20)
    far.write_text(near.read_text() + "Then other words came. " * 2000)
    plans = [calibrated(model, config_for(checkpoint, tmp_path, text=text)) for text in (near, far)]
    assert plans[0].layers == plans[1].layers


def test_a_missing_tokenizer(asa: tuple[Path, ExportedModel], tmp_path: Path) -> None:
    checkpoint, model = asa
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        calibrated(model, config_for(checkpoint, tmp_path, tokenizer=tmp_path))
