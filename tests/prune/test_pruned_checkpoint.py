"""What lies in a pruned checkpoint: bytes of the old one, an index, a config.json, the files beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fp8_checkpoints import RAGGED, change_config, change_tensors, quantize_checkpoint
from prune.pruning import pruned
from safetensors.torch import load_file, save_file
from tiny_checkpoints import write_deepseek, write_r1_asa
from torch import Tensor

from r1trt.checkpoint import checkpoint_from_dir
from r1trt.cli import main
from r1trt.config import MoeConfig
from r1trt.prune.result import PruneResult

TRAINED = Path(__file__).parents[1] / "data" / "r1_asa_bytes"


def tensors_of(checkpoint: Path) -> dict[str, Tensor]:
    """Of all weight files, each name once."""
    found: dict[str, Tensor] = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        own = load_file(path)
        assert not found.keys() & own.keys()
        found |= own
    return found


def raw_config(checkpoint: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    return config


def old_name(name: str, kept: dict[int, tuple[int, ...]]) -> str:
    """What a tensor of the new checkpoint is called in the old one."""
    layer, marker, rest = name.partition(".mlp.experts.")
    if not marker:
        return name
    index, _, projection = rest.partition(".")
    return f"{layer}{marker}{kept[int(layer.split('.')[2])][int(index)]}.{projection}"


def assert_holds_the_old_bytes(old: Path, new: Path, result: PruneResult) -> None:
    before, after = tensors_of(old), tensors_of(new)
    kept = {choice.scores.layer: choice.kept for choice in result.choices}
    for name, tensor in after.items():
        wanted = before[old_name(name, kept)]
        if ".mlp.gate." in name or ".mlp.router." in name:
            wanted = wanted[list(kept[int(name.split(".")[2])])]
        assert tensor.dtype == wanted.dtype, name
        assert torch.equal(tensor.view(torch.uint8), wanted.contiguous().view(torch.uint8)), name
    gone = {f"model.layers.{layer}." for layer in kept}
    missing = before.keys() - {old_name(name, kept) for name in after}
    assert all(name.startswith(tuple(gone)) and ".mlp.experts." in name for name in missing)


def assert_index_is_right(checkpoint: Path) -> list[str]:
    """Files of an index, in order."""
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    files = sorted({path.name for path in checkpoint.glob("*.safetensors")})
    assert sorted(set(index["weight_map"].values())) == files
    held = {file: load_file(checkpoint / file) for file in files}
    assert index["weight_map"] == {name: file for file, own in held.items() for name in own}
    sizes = (tensor.nbytes for own in held.values() for tensor in own.values())
    assert index["metadata"]["total_size"] == sum(sizes)
    return files


@pytest.mark.parametrize("architecture", ["DeepseekV3ForCausalLM", "DeepseekV2ForCausalLM"])
def test_shards_are_written_anew(architecture: str, tmp_path: Path) -> None:
    checkpoint = write_deepseek(
        tmp_path / "checkpoint", architecture, tokenizer=True, n_routed_experts=16, max_shard_size="60KB",
        hub_spelling=True,
    )  # fmt: skip
    result, output = pruned(checkpoint, tmp_path, keep=8)
    files = assert_index_is_right(output)
    assert len(files) == len(list(checkpoint.glob("*.safetensors"))) > 3
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert_holds_the_old_bytes(checkpoint, output, result)
    assert raw_config(output)["n_routed_experts"] == 8


def test_a_shard_of_nothing_but_removed_experts_is_gone(tmp_path: Path) -> None:
    checkpoint = write_deepseek(tmp_path / "checkpoint", tokenizer=True, n_routed_experts=16)
    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        expert = name.partition(".mlp.experts.")[2].partition(".")[0]
        parts.setdefault(expert, {})[name] = tensor
    weight_map = {}
    for number, own in enumerate(parts.values(), 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        save_file(own, checkpoint / file, {"format": "pt"})
        weight_map |= dict.fromkeys(own, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    result, output = pruned(checkpoint, tmp_path, keep=8)
    assert len(parts) == 17 and len(assert_index_is_right(output)) == 9
    assert_holds_the_old_bytes(checkpoint, output, result)


def test_fp8_with_block_scales(tmp_path: Path) -> None:
    wide = write_deepseek(tmp_path / "wide", tokenizer=True, n_routed_experts=12, **RAGGED)
    fp8 = quantize_checkpoint(wide, tmp_path / "fp8")
    result, output = pruned(fp8, tmp_path, keep=8)
    assert_holds_the_old_bytes(fp8, output, result)
    scales = [name for name in tensors_of(output) if name.endswith("experts.7.up_proj.weight_scale_inv")]
    assert len(scales) == 1
    assert raw_config(output)["quantization_config"] == raw_config(fp8)["quantization_config"]


@pytest.mark.parametrize("keep", [6, 4])
def test_it_is_smaller_by_what_the_arithmetic_says(keep: int, tmp_path: Path) -> None:
    result, output = pruned(TRAINED, tmp_path, keep=keep)
    config = checkpoint_from_dir(TRAINED).config
    moe, hidden = config.layers[0].mlp, config.hidden_size
    assert isinstance(moe, MoeConfig)
    fewer = len(config.layers) * (moe.num_experts - keep) * (3 * hidden * moe.expert_width + hidden)
    assert result.before.parameters - result.after.parameters == fewer
    assert result.before.bytes - result.after.bytes == 2 * fewer  # BF16
    files = [(path / "model.safetensors").stat().st_size for path in (TRAINED, output)]
    assert abs(files[0] - files[1] - 2 * fewer) < 0.01 * files[0]  # names in headers
    assert sum(tensor.nbytes for tensor in tensors_of(output).values()) == result.after.bytes


def test_config_says_what_was_done(tmp_path: Path) -> None:
    checkpoint = write_deepseek(tmp_path / "checkpoint", tokenizer=True, n_routed_experts=16)
    change_config(checkpoint, auto_map={"AutoConfig": "configuration.Config"}, num_local_experts=16)
    (checkpoint / "LICENSE").write_text("Do as you like.")
    (checkpoint / "tokenizer.model").write_bytes(b"pieces")
    result, once = pruned(checkpoint, tmp_path, keep=12)
    raw = raw_config(once)
    assert raw["n_routed_experts"] == raw["num_local_experts"] == 12 and "auto_map" not in raw
    [record] = raw["r1trt_pruning"]
    assert (record["experts_before"], record["experts"], record["criterion"]) == (16, 12, "reap")
    assert record["calibration_tokens"] == result.facts["calibration_tokens"] and record["seed"] is None
    unchanged = {"n_group", "topk_group", "num_experts_per_tok", "n_shared_experts", "rope_parameters"}
    assert {key: raw[key] for key in unchanged} == {key: raw_config(checkpoint)[key] for key in unchanged}
    for name in ("tokenizer.json", "tokenizer_config.json", "LICENSE", "tokenizer.model"):
        assert (once / name).read_bytes() == (checkpoint / name).read_bytes()
    _, twice = pruned(once, tmp_path, remove=0.34, criterion="random", seed=3, output=tmp_path / "twice")
    first, second = raw_config(twice)["r1trt_pruning"]
    assert first == record and (second["experts"], second["seed"]) == (8, 3)


def test_layers_behind_the_last_are_left_out(tmp_path: Path) -> None:
    checkpoint = write_deepseek(
        tmp_path / "checkpoint", tokenizer=True, n_routed_experts=16, num_nextn_predict_layers=1
    )

    def add_layer(tensors: dict[str, Tensor]) -> None:
        prefix = "model.layers.2."
        copies = {
            name.replace("model.layers.1.", prefix): tensor.clone()
            for name, tensor in tensors.items()
            if name.startswith("model.layers.1.")
        }
        tensors |= {**copies, f"{prefix}eh_proj.weight": torch.zeros(64, 128)}

    change_tensors(checkpoint, add_layer)
    result, output = pruned(checkpoint, tmp_path, keep=8)
    assert raw_config(output)["num_nextn_predict_layers"] == 0
    assert not [name for name in tensors_of(output) if name.startswith("model.layers.2.")]
    assert any("num_nextn_predict_layers" in note for note in result.notes)


def test_a_head_that_is_the_embedding(tmp_path: Path) -> None:
    checkpoint = write_r1_asa(tmp_path / "checkpoint", tokenizer=True, tie_word_embeddings=True)
    result, output = pruned(checkpoint, tmp_path, keep=4)
    assert "lm_head.weight" not in tensors_of(output)
    assert_holds_the_old_bytes(checkpoint, output, result)


def test_it_exports_builds_and_validates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, output = pruned(TRAINED, tmp_path, keep=4)
    export, build = tmp_path / "export", tmp_path / "build"
    assert main(["export", str(output), "-o", str(export)]) == 0
    assert main(["build", str(export), "--arch", "cpu", "-o", str(build)]) == 0
    assert main(["validate", str(build), "--max-tokens", "256"]) == 0, capsys.readouterr().err
    shutil.rmtree(export)
    assert main(["inspect", str(output)]) == 0
    assert "4, 1 to 2 a token, softmax router" in capsys.readouterr().out
