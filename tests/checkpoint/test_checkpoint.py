from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import CONFIGS, WriteCheckpoint, arrays_of, safetensors_bytes, tensor_of, write_index

from r1trt.checkpoint import checkpoint_from_dir
from r1trt.checkpoint.checkpoint import PREFIXES
from r1trt.errors import CheckpointError, ConfigError
from r1trt.families import expected_tensors, model_config_from_dict

INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("shards", [1, 3])
def test_opens_and_reads(write_checkpoint: WriteCheckpoint, family: str, shards: int) -> None:
    arrays = arrays_of(CONFIGS[family])
    checkpoint = checkpoint_from_dir(write_checkpoint(CONFIGS[family], arrays, shards))
    assert checkpoint.config.family == family
    assert checkpoint.tensors.keys() == arrays.keys()
    assert len(checkpoint.files) == shards
    assert not checkpoint.has_links
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensor_of(checkpoint, name), array)


def test_r1_asa_table() -> None:
    tensors = expected_tensors(model_config_from_dict(CONFIGS["r1_asa"], where=Path("config.json")))
    assert tensors["model.layers.0.mlp.gate_proj.weight"] == (12, 8)
    assert tensors["model.layers.1.self_attn.q_proj.weight"] == (16, 8)
    assert tensors["model.layers.1.self_attn.lam_gate.weight"] == (4, 8)
    assert tensors["model.layers.1.self_attn.lam_gate.bias"] == (4,)
    assert tensors["model.layers.1.mlp.router.weight"] == (4, 8)
    assert tensors["model.layers.1.mlp.router.e_score_correction_bias"] == (4,)
    assert tensors["model.layers.1.mlp.experts.3.down_proj.weight"] == (8, 6)
    assert tensors["model.layers.1.mlp.shared_expert.up_proj.weight"] == (5, 8)
    assert len(tensors) == 3 + 2 * (6 + 2) + 3 + (2 + 4 * 3 + 3)
    plain = {**CONFIGS["r1_asa"], "hla_gate": False, "scoring": "softmax", "num_shared_experts": 0}
    names = expected_tensors(model_config_from_dict(plain, where=Path("config.json")))
    assert not [n for n in names if "lam_gate" in n or "correction" in n or "shared" in n]


def test_all_findings_are_in_one_error(write_checkpoint: WriteCheckpoint) -> None:
    arrays = arrays_of(CONFIGS["qwen2"])
    del arrays["model.layers.0.self_attn.q_proj.bias"], arrays["model.norm.weight"]
    arrays["model.layers.7.extra"] = np.zeros(2, "<f4")
    arrays["lm_head.weight"] = np.zeros((12, 8), "<f4")
    with pytest.raises(CheckpointError) as caught:
        checkpoint_from_dir(write_checkpoint(CONFIGS["qwen2"], arrays))
    text = str(caught.value)
    assert "missing (2):" in text and "model.layers.0.self_attn.q_proj.bias [8]" in text
    assert "unexpected (1):" in text and "model.layers.7.extra [2]" in text
    assert "wrong shape (1):" in text and "lm_head.weight: [12, 8] instead of [11, 8]" in text


def test_long_lists_are_cut(write_checkpoint: WriteCheckpoint) -> None:
    config = {**CONFIGS["llama"], "num_hidden_layers": 200}
    with pytest.raises(CheckpointError, match=r"missing \(1782\)") as caught:
        checkpoint_from_dir(write_checkpoint(config, arrays_of(CONFIGS["llama"])))
    assert "and 1762 more" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 30


def test_config_at_odds_with_shapes(write_checkpoint: WriteCheckpoint) -> None:
    config = {**CONFIGS["llama"], "num_key_value_heads": 4}
    with pytest.raises(CheckpointError, match=r"k_proj.weight: \[4, 8\] instead of \[8, 8\]"):
        checkpoint_from_dir(write_checkpoint(config, arrays_of(CONFIGS["llama"])))


def test_wrong_dtype(write_checkpoint: WriteCheckpoint) -> None:
    arrays = arrays_of(CONFIGS["llama"])
    directory = write_checkpoint(CONFIGS["llama"], arrays)
    integers = {name: array.astype("<i4") for name, array in arrays.items()}
    (directory / "model.safetensors").write_bytes(safetensors_bytes(integers, "I32"))
    with pytest.raises(CheckpointError, match=r"wrong dtype \(21\)"):
        checkpoint_from_dir(directory)


def test_known_extras_are_ignored(write_checkpoint: WriteCheckpoint) -> None:
    arrays = arrays_of(CONFIGS["llama"])
    arrays["model.layers.1.self_attn.rotary_emb.inv_freq"] = np.zeros(1, "<f4")
    checkpoint = checkpoint_from_dir(write_checkpoint(CONFIGS["llama"], arrays))
    assert "model.layers.1.self_attn.rotary_emb.inv_freq" not in checkpoint.tensors


@pytest.mark.parametrize("equal", [True, False])
def test_head_beside_a_tied_embedding(write_checkpoint: WriteCheckpoint, equal: bool) -> None:
    config = {**CONFIGS["llama"], "tie_word_embeddings": True}
    arrays = arrays_of(config)
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"] + np.float32(not equal)
    directory = write_checkpoint(config, arrays)
    if equal:
        assert "lm_head.weight" not in checkpoint_from_dir(directory).tensors
    else:
        with pytest.raises(CheckpointError, match="different head"):
            checkpoint_from_dir(directory)


def test_untied_head_is_required(write_checkpoint: WriteCheckpoint) -> None:
    arrays = arrays_of(CONFIGS["llama"])
    del arrays["lm_head.weight"]
    with pytest.raises(CheckpointError, match=r"lm_head.weight \[11, 8\]"):
        checkpoint_from_dir(write_checkpoint(CONFIGS["llama"], arrays))


def test_missing_shards_are_listed_at_once(write_checkpoint: WriteCheckpoint) -> None:
    directory = write_checkpoint(CONFIGS["llama"], shards=4)
    for shard in (2, 4):
        (directory / f"model-0000{shard}-of-00004.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"missing shards \(2\)") as caught:
        checkpoint_from_dir(directory)
    assert "model-00002-of-00004" in str(caught.value) and "model-00004-of-00004" in str(caught.value)


@pytest.mark.parametrize(
    "file",
    [
        "../model.safetensors",
        "sub/../../model.safetensors",
        "/etc/model.safetensors",
        "./model-1.safetensors",
        "C:\\model.safetensors",
        "model\n.safetensors",
        "model.bin",
        "",
        "a\0.safetensors",
    ],
)
def test_unsafe_shard_names(write_checkpoint: WriteCheckpoint, file: str) -> None:
    directory = write_checkpoint(CONFIGS["llama"], shards=2)
    outside = directory.parent / "model.safetensors"
    outside.write_bytes(safetensors_bytes(arrays_of(CONFIGS["llama"])))
    write_index(directory, dict.fromkeys(arrays_of(CONFIGS["llama"]), file))
    with pytest.raises(CheckpointError, match="not safe to open"):
        checkpoint_from_dir(directory)


def test_folder_link_that_leaves_the_checkpoint(write_checkpoint: WriteCheckpoint, tmp_path: Path) -> None:
    arrays = arrays_of(CONFIGS["llama"])
    directory = write_checkpoint(CONFIGS["llama"], arrays, shards=2)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "m.safetensors").write_bytes(safetensors_bytes(arrays))
    (directory / "sub").symlink_to(tmp_path / "elsewhere")
    write_index(directory, dict.fromkeys(arrays, "sub/m.safetensors"))
    with pytest.raises(CheckpointError, match="leaves the checkpoint"):
        checkpoint_from_dir(directory)


@pytest.mark.parametrize("shards", [1, 2])
def test_cache_layout_has_links(write_checkpoint: WriteCheckpoint, tmp_path: Path, shards: int) -> None:
    arrays = arrays_of(CONFIGS["llama"])
    directory = write_checkpoint(CONFIGS["llama"], arrays, shards)
    (tmp_path / "blobs").mkdir()
    for number, file in enumerate(sorted(directory.glob("*.safetensors"))):
        file.rename(tmp_path / "blobs" / str(number))
        file.symlink_to(Path("..", "blobs", str(number)))
    checkpoint = checkpoint_from_dir(directory)
    assert checkpoint.has_links
    np.testing.assert_array_equal(tensor_of(checkpoint, "model.norm.weight"), arrays["model.norm.weight"])
    os.unlink(tmp_path / "blobs" / "0")
    with pytest.raises(CheckpointError):
        checkpoint_from_dir(directory)


def test_index_at_odds_with_shards(write_checkpoint: WriteCheckpoint) -> None:
    directory = write_checkpoint(CONFIGS["llama"], shards=2)
    weight_map = json.loads((directory / INDEX).read_text())["weight_map"]
    first = weight_map["model.norm.weight"]
    other = next(file for file in weight_map.values() if file != first)
    write_index(directory, {**weight_map, "model.norm.weight": other, "ghost": first})
    with pytest.raises(CheckpointError) as caught:
        checkpoint_from_dir(directory)
    text = str(caught.value)
    assert "in the index, not in its shard (2)" in text and "ghost" in text
    assert f"model.norm.weight ({first})" in text


@pytest.mark.parametrize("weight_map", [None, [], {}, {"a": 1}, "x"])
def test_malformed_index(write_checkpoint: WriteCheckpoint, weight_map: Any) -> None:
    directory = write_checkpoint(CONFIGS["llama"], shards=2)
    write_index(directory, weight_map)
    with pytest.raises(CheckpointError, match="index is malformed"):
        checkpoint_from_dir(directory)


def test_shards_without_an_index_are_read(write_checkpoint: WriteCheckpoint) -> None:
    directory = write_checkpoint(CONFIGS["llama"], shards=2)
    with_index = checkpoint_from_dir(directory)
    (directory / "model.safetensors.index.json").unlink()
    (directory / "adapter_model.safetensors").write_bytes(b"of something else")
    found = checkpoint_from_dir(directory)
    assert found.tensors == with_index.tensors and with_index.notes == ()
    (note,) = found.notes
    assert "no model.safetensors.index.json" in note and "all 2 shards" in note


def test_shards_without_an_index_have_to_be_complete(write_checkpoint: WriteCheckpoint) -> None:
    directory = write_checkpoint(CONFIGS["llama"], shards=3)
    (directory / "model.safetensors.index.json").unlink()
    (directory / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"incomplete\n.*\n    model-00002-of-00003.safetensors"):
        checkpoint_from_dir(directory)


def test_shards_without_an_index_hold_no_tensor_twice(write_checkpoint: WriteCheckpoint) -> None:
    directory = write_checkpoint(CONFIGS["llama"], shards=2)
    (directory / "model.safetensors.index.json").unlink()
    first = (directory / "model-00001-of-00002.safetensors").read_bytes()
    (directory / "other-00001-of-00001.safetensors").write_bytes(first)
    with pytest.raises(CheckpointError, match="two tensors counts") as caught:
        checkpoint_from_dir(directory)
    assert "model.safetensors.index.json" in caught.value.details["fix"]


def test_an_index_that_lists_less_than_the_shards_hold(write_checkpoint: WriteCheckpoint) -> None:
    arrays = arrays_of(CONFIGS["llama"])
    unused = {"model.unused": arrays["model.norm.weight"]}
    directory = write_checkpoint(CONFIGS["llama"], arrays | unused, shards=2)
    index = directory / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    write_index(directory, {name: file for name, file in weight_map.items() if name not in unused})
    found = checkpoint_from_dir(directory)
    assert found.notes == ("The index does not list model.unused of the shards: not a part of the model.",)
    assert set(found.tensors) == set(arrays)
    del weight_map["model.norm.weight"], weight_map["model.unused"]
    write_index(directory, weight_map)
    found = checkpoint_from_dir(directory)
    assert set(found.tensors) == set(arrays)
    assert found.notes[0].startswith("The index does not list model.norm.weight; the model needs it")


def test_a_value_head_is_left_out(write_checkpoint: WriteCheckpoint) -> None:
    arrays = arrays_of(CONFIGS["llama"])
    heads = {f"v_head.summary.{name}": arrays["model.norm.weight"] for name in ("weight", "bias")}
    found = checkpoint_from_dir(write_checkpoint(CONFIGS["llama"], arrays | heads))
    assert set(found.tensors) == set(arrays)
    assert found.notes == ("A value head (v_head.summary.bias and 1 more) is not exported: it scores texts.",)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_wrapped_a_model_is_told(write_checkpoint: WriteCheckpoint, prefix: str) -> None:
    arrays = {prefix + name: array for name, array in arrays_of(CONFIGS["llama"]).items()}
    with pytest.raises(CheckpointError, match="do not fit") as caught:
        checkpoint_from_dir(write_checkpoint(CONFIGS["llama"], arrays))
    assert caught.value.details["fix"] == f"the names begin with {prefix!r}: {PREFIXES[prefix]}"


def test_an_untied_model_without_its_head(write_checkpoint: WriteCheckpoint) -> None:
    arrays = arrays_of(CONFIGS["llama"])
    del arrays["lm_head.weight"]
    with pytest.raises(CheckpointError, match=r"missing \(1\)") as caught:
        checkpoint_from_dir(write_checkpoint(CONFIGS["llama"], arrays))
    assert "tie_word_embeddings" in caught.value.details["fix"]


def test_a_truncated_index(write_checkpoint: WriteCheckpoint) -> None:
    index = write_checkpoint(CONFIGS["llama"], shards=2) / "model.safetensors.index.json"
    index.write_text(index.read_text()[:100])
    with pytest.raises(CheckpointError, match="invalid JSON") as caught:
        checkpoint_from_dir(index.parent)
    assert index.name in str(caught.value)
    assert "fix: take the file of the same revision again" in str(caught.value)


def test_pickled_weights_are_not_opened(write_checkpoint: WriteCheckpoint) -> None:
    directory = write_checkpoint(CONFIGS["llama"])
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="never opened") as caught:
        checkpoint_from_dir(directory)
    assert "convert to safetensors" in caught.value.details["fix"]


@pytest.mark.parametrize(
    "content", [b"{", b"[1]", b'"x"', b"\xff", b'{"a":1,"a":1}', b'{"rms_norm_eps": NaN}', b'{"a": 1e999}']
)
def test_bad_config_json(write_checkpoint: WriteCheckpoint, content: bytes) -> None:
    directory = write_checkpoint(CONFIGS["llama"])
    (directory / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="invalid JSON"):
        checkpoint_from_dir(directory)


def test_absent_things(write_checkpoint: WriteCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a directory"):
        checkpoint_from_dir(tmp_path / "nowhere")
    directory = write_checkpoint(CONFIGS["llama"])
    (directory / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        checkpoint_from_dir(directory)
    (directory / "config.json").unlink()
    with pytest.raises(CheckpointError, match="directory is not a checkpoint"):
        checkpoint_from_dir(directory)


def test_config_error_names_the_file(write_checkpoint: WriteCheckpoint) -> None:
    directory = write_checkpoint(CONFIGS["llama"])
    (directory / "config.json").write_text(
        json.dumps({**CONFIGS["llama"], "architectures": ["GPT2LMHeadModel"]})
    )
    with pytest.raises(ConfigError, match="GPT2LMHeadModel") as caught:
        checkpoint_from_dir(directory)
    assert caught.value.details["where"] == str(directory / "config.json")


def test_a_directory_without_a_config_is_said_to_be_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="directory is not a checkpoint") as caught:
        checkpoint_from_dir(tmp_path)
    assert caught.value.details["found"] == "no config.json" and "hf download" in caught.value.details["fix"]
