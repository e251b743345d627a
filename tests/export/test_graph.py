"""The shape of an exported graph: nodes a layer, types, external data, and what the files hold."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from export.agreement import FEEDS, exported_session, feed, random_prompts
from tiny_checkpoints import write_llama, write_qwen2, write_r1_asa

from r1trt.checkpoint import checkpoint_from_dir
from r1trt.errors import ConfigError, ExportError
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import load_export
from r1trt.export.model import check_model, onnx_from_checkpoint
from r1trt.runtime.load import session_from_engine

MOST_NODES_OF_A_DENSE_LAYER = 21


def export(checkpoint: Path, output: Path, **options: object) -> Path:
    return export_checkpoint(ExportConfig(checkpoint=checkpoint, output=output, max_seq_len=64, **options))


@pytest.mark.parametrize("write", [write_llama, write_qwen2, write_r1_asa])
def test_nodes_of_a_layer(write, tmp_path: Path) -> None:
    model = onnx_from_checkpoint(checkpoint_from_dir(write(tmp_path)), 64)
    layers = Counter(
        found[1] for node in model.graph if (found := re.match(r"model\.layers\.(\d+)\.", node.name or ""))
    )
    assert set(layers) == {"0", "1"}
    assert max(layers.values()) <= MOST_NODES_OF_A_DENSE_LAYER


@pytest.mark.parametrize("write", [write_llama, write_qwen2, write_r1_asa])
def test_checker_passes_and_every_value_is_typed(write, tmp_path: Path) -> None:
    model = onnx_from_checkpoint(checkpoint_from_dir(write(tmp_path)), 64)
    check_model(model)
    for node in model.graph:
        for value in node.outputs:
            assert value.dtype is not None and value.shape is not None, value.name
    assert len({node.name for node in model.graph}) == len(model.graph)


def test_checker_refuses_a_broken_graph(tmp_path: Path) -> None:
    model = onnx_from_checkpoint(checkpoint_from_dir(write_llama(tmp_path)), 64)
    node = next(node for node in model.graph if node.op_type == "Add")
    node.op_type = "NoSuchOperator"
    with pytest.raises(ExportError, match="checker refuses"):
        check_model(model)


def test_weights_stay_in_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", dtype="bfloat16")
    output = export(checkpoint, tmp_path / "export")
    assert not list(output.glob("*.safetensors"))
    exported = load_export(output)
    assert exported.weight_base == checkpoint.resolve()
    for name, value in exported.model.graph.initializers.items():
        if name.startswith(("model.", "lm_head")):
            assert isinstance(value.const_value, ir.ExternalTensor)
            assert value.dtype == ir.DataType.BFLOAT16


def test_copy_makes_the_export_self_contained(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", max_shard_size="50KB")
    in_place = exported_session(checkpoint, tmp_path / "in_place", 64)
    output = export(checkpoint, tmp_path / "copied", copy=True)
    prompts = random_prompts((37, 23), in_place.limits.vocab_size)
    want = feed(in_place, prompts, FEEDS["prefill"])
    shutil.rmtree(checkpoint)
    moved = output.rename(tmp_path / "elsewhere")
    assert load_export(moved).weight_base == moved
    got = feed(session_from_engine(moved), prompts, FEEDS["prefill"])
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("output", ["export", "."])
def test_an_export_does_not_replace_its_own_weights(output: str, tmp_path: Path) -> None:
    write_llama(tmp_path / "checkpoint")
    copied = export(tmp_path / "checkpoint", tmp_path / "export", copy=True)
    with pytest.raises(ConfigError, match="holds the checkpoint"):
        export(copied, tmp_path / output)
    assert (copied / "model.safetensors").is_file()


def test_a_linked_checkpoint_as_in_the_hub_cache(tmp_path: Path) -> None:
    real = write_llama(tmp_path / "real")
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for index, file in enumerate(sorted(real.iterdir())):
        shutil.move(file, blobs / f"blob{index}")
        os.symlink(f"../../blobs/blob{index}", snapshot / file.name)
    output = export(snapshot, tmp_path / "export")
    assert load_export(output).weight_base == blobs
    session = session_from_engine(output)
    feed(session, random_prompts((5, 3), session.limits.vocab_size), [(5, 3)])


def test_companion_files_travel(tmp_path: Path) -> None:
    output = export(write_llama(tmp_path / "checkpoint", tokenizer=True), tmp_path / "export")
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "manifest.json", "model.onnx"} <= {
        file.name for file in output.iterdir()
    }


def test_two_exports_are_identical(tmp_path: Path) -> None:
    checkpoint = write_r1_asa(tmp_path / "checkpoint")
    first, second = (export(checkpoint, tmp_path / name) / "model.onnx" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint")
    output = export(checkpoint, tmp_path / "export")
    with open(checkpoint / "model.safetensors", "ab") as stream:
        stream.write(b"x")
    with pytest.raises(ExportError, match=r"changed since the export[\s\S]*export the checkpoint again"):
        load_export(output)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ExportError, match="gone"):
        load_export(output)


def test_a_location_outside_the_directory_is_refused(tmp_path: Path) -> None:
    output = export(write_llama(tmp_path / "checkpoint"), tmp_path / "export")
    path = output / "model.onnx"
    path.write_bytes(path.read_bytes().replace(b"model.safetensors", b"../../etc/passwd0"))
    with pytest.raises(ExportError, match="out of its directory"):
        load_export(output)


def test_a_file_that_the_manifest_does_not_list_is_no_weight_file(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint")
    output = export(checkpoint, tmp_path / "export")
    (checkpoint / "other.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    path = output / "model.onnx"
    path.write_bytes(path.read_bytes().replace(b"model.safetensors", b"other.safetensors"))
    with pytest.raises(ExportError, match="none of the export's") as caught:
        load_export(output)
    assert "found: other.safetensors" in str(caught.value)


def test_garbage_instead_of_a_graph(tmp_path: Path) -> None:
    output = export(write_llama(tmp_path / "checkpoint"), tmp_path / "export")
    (output / "model.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ExportError, match="not a readable ONNX graph"):
        load_export(output)


def test_a_damaged_graph_is_refused_with_all_that_is_wrong(tmp_path: Path) -> None:
    output = export(write_llama(tmp_path / "checkpoint"), tmp_path / "export")
    model = onnx.load(output / "model.onnx", load_external_data=False)
    model.graph.node[3].input[0] = "nope"
    model.graph.initializer[0].data_type = 0
    (output / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="damaged") as caught:
        load_export(output)
    assert f"node '{model.graph.node[3].name}' reads 'nope', which nothing makes" in str(caught.value)
    assert f"tensor '{model.graph.initializer[0].name}' has no type" in str(caught.value)


def test_capacity_beyond_the_model_is_refused(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint")
    with pytest.raises(ConfigError, match="max_position_embeddings = 256"):
        export_checkpoint(ExportConfig(checkpoint=checkpoint, output=tmp_path / "export", max_seq_len=257))
    assert not (tmp_path / "export").exists()


def test_manifest_describes_the_export(tmp_path: Path) -> None:
    output = export(write_r1_asa(tmp_path / "checkpoint"), tmp_path / "export")
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["kind"] == "export" and manifest["capacity"] == 64
    assert manifest["parameters"] > 0 and manifest["weights"]["files"][0]["header_sha256"]
