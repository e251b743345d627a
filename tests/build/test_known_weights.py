"""What the first build read of the weights is what every later one must find."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from tiny_checkpoints import write_llama

from r1trt.artifacts import BuildArtifact, ExportArtifact
from r1trt.artifacts.disk import sha256_of_file
from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.manifest import MANIFEST_FILE
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.build.weight_scan import read_weights
from r1trt.errors import CheckpointError, ExportError
from r1trt.export.export import ExportConfig, export_checkpoint

WEIGHTS = "model.safetensors"
# Root writes into read-only directories, unless its process gives up that right (CAP_DAC_OVERRIDE).
UNPRIVILEGED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 1)
os.execv(sys.executable, [sys.executable, "-m", "r1trt", *sys.argv[1:]])
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "checkpoint", dtype="bfloat16", tokenizer=True)


def exported(checkpoint: Path, **options: bool) -> Path:
    output = checkpoint.parent / "export"
    return export_checkpoint(ExportConfig(checkpoint=checkpoint, output=output, max_seq_len=32, **options))


@pytest.fixture
def export(checkpoint: Path) -> Path:
    return exported(checkpoint)


def build(export: Path, name: str = "engine") -> BuildArtifact:
    return BuildArtifact.read(
        build_engine(BuildConfig(model=export, arch="cpu", output=export.parent / name))
    )


def change_one_bit(file: Path) -> None:
    """The last bit of a weight; size, header and modification time stay."""
    status = file.stat()
    with file.open("r+b") as stream:
        at = 8 + int.from_bytes(stream.read(8), "little") + 64
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 1]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_the_first_build_records_and_a_later_one_refuses_what_changed(checkpoint: Path, export: Path) -> None:
    before = sha256_of_file(checkpoint / WEIGHTS)
    (file,) = build(export).manifest.source.weights
    assert (file.name, file.sha256) == (WEIGHTS, before)
    assert file.modified_ns == (checkpoint / WEIGHTS).stat().st_mtime_ns
    record = ExportArtifact.read(export).weight_hashes
    assert json.loads(record.read_text()) == {"schema": 1, "sha256": {WEIGHTS: before}}

    change_one_bit(checkpoint / WEIGHTS)
    with pytest.raises(ExportError, match="other contents") as caught:
        build(export, "second")
    after = sha256_of_file(checkpoint / WEIGHTS)
    for part in (WEIGHTS, before, after, str(record)):
        assert part in caught.value.details["found"]
    assert not (export.parent / "second").exists()

    change_one_bit(checkpoint / WEIGHTS)
    assert build(export, "second").manifest.source.weights == (file,)


def test_an_export_made_again_begins_anew(checkpoint: Path, export: Path) -> None:
    build(export)
    change_one_bit(checkpoint / WEIGHTS)
    os.utime(checkpoint / WEIGHTS)
    (file,) = build(exported(checkpoint)).manifest.source.weights
    assert file.sha256 == sha256_of_file(checkpoint / WEIGHTS)


def test_copies_of_the_weights_are_the_same_weights(checkpoint: Path, export: Path) -> None:
    first = build(export)
    copied = (checkpoint / WEIGHTS).read_bytes()
    (checkpoint / WEIGHTS).unlink()
    (checkpoint / WEIGHTS).write_bytes(copied)
    os.utime(checkpoint / WEIGHTS, ns=(0, 1))
    assert build(export, "second").manifest.source == first.manifest.source


def test_weights_inside_the_export_are_remembered_too(checkpoint: Path) -> None:
    export = exported(checkpoint, copy=True)
    (file,) = build(export).manifest.source.weights
    assert file.modified_ns == (export / WEIGHTS).stat().st_mtime_ns
    change_one_bit(export / WEIGHTS)
    with pytest.raises(ExportError, match="other contents"):
        build(export)


def test_a_read_only_export_is_built_and_its_build_remembers(checkpoint: Path, export: Path) -> None:
    output = export.parent / "engine"
    command = [sys.executable, "-c", UNPRIVILEGED, "build", export, "--arch", "cpu", "-o", output]
    export.chmod(stat.S_IRUSR | stat.S_IXUSR)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not ExportArtifact.read(export).weight_hashes.exists()
    (file,) = BuildArtifact.read(output).manifest.source.weights
    assert file.sha256 == sha256_of_file(checkpoint / WEIGHTS)

    change_one_bit(checkpoint / WEIGHTS)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert str(output / MANIFEST_FILE) in done.stderr and str(file.sha256) in done.stderr


def test_older_exports_are_built_and_remembered(checkpoint: Path, export: Path) -> None:
    manifest = json.loads((export / MANIFEST_FILE).read_text())
    del manifest["weights"]["files"][0]["modified_ns"]
    (export / MANIFEST_FILE).write_text(json.dumps(manifest))
    (file,) = build(export).manifest.source.weights
    assert file.modified_ns is None and file.sha256 == sha256_of_file(checkpoint / WEIGHTS)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"schema": 2, "sha256": {}}', '{"schema": 1, "sha256": {"model.safetensors": "5f"}}'],
)
def test_a_damaged_record_is_refused(export: Path, content: str) -> None:
    record = ExportArtifact.read(export).weight_hashes
    record.write_text(content)
    with pytest.raises(ArtifactError) as caught:
        build(export)
    assert caught.value.details["where"] == str(record)
    record.unlink()
    build(export)


def test_a_record_of_other_files_says_nothing(export: Path) -> None:
    record = ExportArtifact.read(export).weight_hashes
    record.write_text(json.dumps({"schema": 1, "sha256": {"/etc/hostname": "5f" * 32}}))
    build(export)
    assert list(json.loads(record.read_text())["sha256"]) == [WEIGHTS]


TYPES = {
    ir.DataType.FLOAT: np.dtype(np.float32),
    ir.DataType.DOUBLE: np.dtype(np.float64),
    ir.DataType.FLOAT16: np.dtype(np.float16),
    ir.DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    ir.DataType.FLOAT8E4M3FN: np.dtype(ml_dtypes.float8_e4m3fn),
    ir.DataType.UINT8: np.dtype(ml_dtypes.float8_e4m3fn),  # FP8 experts
}


def model_of(directory: Path, dtype: ir.DataType, array: np.ndarray) -> ir.Model:  # type: ignore[type-arg]
    (directory / "weights").write_bytes(b"header" + array.tobytes() + b"tail")
    shape = ir.Shape(array.shape)
    tensor = ir.ExternalTensor("weights", 6, array.nbytes, dtype, shape=shape, name="w", base_dir=directory)
    value = ir.Value(name="w", shape=shape, type=ir.TensorType(dtype), const_value=tensor)
    return ir.Model(ir.Graph([], [], nodes=[], initializers=[value]), ir_version=10)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_all_of_a_file_is_hashed_and_every_number_is_looked_at(dtype: ir.DataType, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    numbers = np.clip(rng.normal(size=(64, 8)) * 200, -448, 448).astype(TYPES[dtype])
    contents = read_weights(model_of(tmp_path, dtype, numbers))
    assert contents["weights"].sha256 == hashlib.sha256((tmp_path / "weights").read_bytes()).hexdigest()

    numbers[3, 4], numbers[63, 7] = float("nan"), -float("nan")
    numbers[5, 5] = float("inf")  # which FP8 spells as NaN
    with pytest.raises(CheckpointError, match="NaN or infinity") as caught:
        read_weights(model_of(tmp_path, dtype, numbers))
    assert "w: 3" in caught.value.details["found"]
