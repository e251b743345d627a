from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file
from tiny_checkpoints import write_deepseek, write_llama, write_r1_asa

from r1trt.cli import main
from r1trt.errors import R1TrtError
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.inspect.path import summary_of_path
from r1trt.inspect.summary import Summary

GRAPH = """
<ir_version: 10, opset_import: ["": 24]>
small (float[N, 4] x) => (float[N, 4] y) { s = Sigmoid(x)  y = Mul(x, s) }
"""


def table(summary: Summary, title: str) -> list[tuple[object, ...]]:
    (found,) = (table for table in summary.tables if table.title == title)
    return [tuple(row) for row in found.rows]


def test_checkpoint(tmp_path: Path) -> None:
    summary = summary_of_path(write_llama(tmp_path / "llama", dtype="bfloat16"))
    assert summary.kind == "checkpoint"
    assert summary.facts["layers"] == 2
    ((dtype, tensors, parameters, size),) = table(summary, "Weights by type")
    assert dtype == "BF16" and tensors == summary.facts["tensors"] and size == 2 * parameters


def test_checkpoint_with_experts(tmp_path: Path) -> None:
    summary = summary_of_path(write_r1_asa(tmp_path / "asa"))
    assert summary.facts["experts"].startswith("8, ")


def test_checkpoint_with_latent_attention(tmp_path: Path) -> None:
    facts = summary_of_path(write_deepseek(tmp_path / "deepseek")).facts
    assert facts["heads"] == "4 query, 24 wide, over a latent of 32 + 8 elements"
    assert facts["experts"] == "8, 1 to 3 a token, sigmoid router" and facts["dense layers"] == 1


def test_export_counts_nodes_of_a_layer(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "llama")
    path = export_checkpoint(ExportConfig(checkpoint=checkpoint, output=tmp_path / "export", max_seq_len=64))
    summary = summary_of_path(path)
    assert summary.kind == "export" and summary.facts["capacity"] == 64
    assert 0 < int(summary.facts["nodes a layer"]) <= 21
    assert dict(table(summary, "Operators"))["r1trt::R1HLAAttention"] == 2
    ports = table(summary, "Inputs and outputs")
    assert ("input", "input_ids", "INT64", "[B,S]", 1) in ports
    assert ("output", "key_cache_out.*", "FLOAT", "[B,2,64,16]", 2) in ports


def test_onnx_file(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    onnx.save(onnx.parser.parse_model(GRAPH), path)
    summary = summary_of_path(path)
    assert summary.facts["nodes"] == 2 and summary.facts["layers"] == 0
    assert table(summary, "Operators") == [("Sigmoid", 1), ("Mul", 1)]


def test_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros((), np.int8)}, path)
    rows = table(summary_of_path(path), "Tensors")
    assert sorted(rows) == [("a", "F32", "2x3", 24), ("b", "I8", "scalar", 1)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.onnx", b""),
        ("garbage.onnx", b"\xff" * 100),
        ("truncated.onnx", onnx.parser.parse_model(GRAPH).SerializeToString()[:-20]),
        ("truncated.safetensors", b"\xff\xff"),
        ("huge_header.safetensors", b"\xff" * 7 + b"\x7f{}"),
        ("plan.yaml", b"!!python/object/apply:os.system ['true']"),
        ("plan.yaml", b"[1, 2"),
        ("unknown.bin", b"data"),
    ],
)
def test_damaged_files_are_refused(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert main(["inspect", str(path)]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and name in printed.err and not printed.out


@pytest.mark.parametrize(
    "manifest",
    [
        "{",
        "[]",
        json.dumps({"schema": 1, "kind": "engine"}),
        json.dumps({"schema": 1, "kind": "export", "weights": 3}),
        json.dumps({"schema": 1, "kind": "triton", "files": [1]}),
        json.dumps({"schema": 99, "kind": "engine"}),
    ],
)
def test_damaged_manifests_are_refused(manifest: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(R1TrtError):
        summary_of_path(tmp_path)


def test_summary_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.onnx"
    onnx.save(onnx.parser.parse_model(GRAPH), path)
    assert main(["inspect", str(path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["kind"] == "onnx" and summary["path"] == str(path) and summary["facts"]["nodes"] == 2
