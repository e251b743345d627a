"""What is named in place of a checkpoint, and what stands in place of weights: each error has what helps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from checkpoint_files import CONFIGS, WriteCheckpoint
from click.testing import CliRunner

from r1trt.checkpoint import checkpoint_from_dir
from r1trt.cli import cli
from r1trt.errors import CheckpointError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2200119864\n"


def refused(path: Path) -> tuple[str, str, str]:
    """Message, what was found, and what helps."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint_from_dir(path)
    details = caught.value.details
    return caught.value.message, str(details["found"]), str(details.get("fix"))


@pytest.mark.parametrize("config", [False, True])
@pytest.mark.parametrize(
    ("content", "base"),
    [('{"base_model_name_or_path": "org/base"}', ", for org/base"), ("[]", ""), ("{", ""), ("\udcff", "")],
)
def test_an_adapter(tmp_path: Path, content: str, base: str, config: bool) -> None:
    (tmp_path / "adapter_config.json").write_bytes(content.encode(errors="surrogateescape"))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    if config:
        (tmp_path / "config.json").write_text(json.dumps(CONFIGS["llama"]))
    message, found, fix = refused(tmp_path)
    assert "adapter" in message and found == f"adapter_config.json{base}" and "merge_and_unload" in fix


def test_gguf(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["llama"]))
    (tmp_path / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    message, found, fix = refused(tmp_path)
    assert "GGUF" in message and found == "model-Q4_K_M.gguf" and "safetensors" in fix


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_pointers_of_git_lfs(write_checkpoint: WriteCheckpoint, name: str) -> None:
    directory = write_checkpoint(CONFIGS["llama"])
    (directory / name).write_bytes(POINTER)
    message, found, fix = refused(directory)
    assert "git-lfs" in message and found.startswith("version https://") and "git lfs pull" in fix


def test_an_index_that_is_a_pointer(write_checkpoint: WriteCheckpoint) -> None:
    directory = write_checkpoint(CONFIGS["llama"], shards=2)
    (directory / "model.safetensors.index.json").write_bytes(POINTER)
    assert "git-lfs" in refused(directory)[0]


def test_a_trainers_folder(tmp_path: Path, write_checkpoint: WriteCheckpoint) -> None:
    checkpoint, output = write_checkpoint(CONFIGS["llama"]), tmp_path / "output"
    for step in (500, 1000, 90):
        shutil.copytree(checkpoint, output / f"checkpoint-{step}")
    message, found, fix = refused(output)
    assert "checkpoints lie in it" in message
    assert found == "checkpoint-90, checkpoint-500, checkpoint-1000"
    assert fix.endswith(str(output / "checkpoint-1000")), "the last one"


def test_a_folder_of_the_hubs_cache(tmp_path: Path, write_checkpoint: WriteCheckpoint) -> None:
    model = tmp_path / "models--org--name"
    (model / "snapshots").mkdir(parents=True)
    assert "cache" in refused(model)[0]
    shutil.copytree(write_checkpoint(CONFIGS["llama"]), model / "snapshots" / "0123abcd")
    message, found, fix = refused(model)
    assert "cache" in message and found == "snapshots: 0123abcd"
    assert fix == f"name a snapshot: {model / 'snapshots' / '0123abcd'}"


@pytest.mark.parametrize("name", ["deepseek-ai/DeepSeek-R1", "Qwen/Qwen2-0.5B", "org_1/a.b-c"])
def test_the_name_of_a_model_on_the_hub(name: str) -> None:
    result = CliRunner().invoke(cli, ["export", name])
    assert result.exit_code == 2
    assert f"hf download {name} --local-dir {name.split('/')[1]}" in result.output


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "a/b/c", "/a/b", "a/..", "../b"])
def test_other_paths_are_no_names_of_models(name: str) -> None:
    result = CliRunner().invoke(cli, ["export", name])
    assert result.exit_code == 2 and "hub" not in result.output
