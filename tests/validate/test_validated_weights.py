"""Validations of artifacts whose files are not what they were."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from tiny_checkpoints import write_llama

from r1trt.artifacts import BuildArtifact
from r1trt.artifacts.disk import sha256_of_file
from r1trt.artifacts.errors import ArtifactError
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.errors import ExportError, UnavailableError
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.validate.config import ValidateConfig
from r1trt.validate.validate import validate_engine

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama") / "checkpoint", tokenizer=True, head_dim=64)


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "checkpoint"))


def built(checkpoint: Path, arch: str = "cpu", *, copy: bool = False) -> BuildArtifact:
    output, engine = checkpoint.parent / "export", checkpoint.parent / "engine"
    export = export_checkpoint(ExportConfig(checkpoint=checkpoint, output=output, max_seq_len=64, copy=copy))
    with suppress(UnavailableError):  # a build that lacks its engine for want of a GPU
        build_engine(BuildConfig(model=export, arch=arch, output=engine))
    return BuildArtifact.read(engine)


def validate(directory: Path, reference: Path | None = None) -> None:
    validate_engine(ValidateConfig(engine=directory, max_tokens=100, reference=reference))


def change_last_weight(file: Path) -> None:
    """The last bit of a weight; size, header and modification time stay."""
    status = file.stat()
    content = bytearray(file.read_bytes())
    content[-4] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_checkpoint_that_moved_is_a_reference_where_it_is_now(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = built(checkpoint)
    moved = checkpoint.rename(checkpoint.parent / "moved")
    report = validate_engine(ValidateConfig(engine=build.path, max_tokens=100, reference=moved))
    assert [(item.reference, item.tested) for item in report.comparisons] == [("checkpoint", "cpu")]
    reasons = {stage.name: stage.reason for stage in report.stages}
    assert reasons["exported"] == f"A weight file of this export is gone. {checkpoint / WEIGHTS}"
    with pytest.raises(ExportError, match="A weight file of this export is gone"):
        validate(checkpoint.parent / "export", moved)


@pytest.mark.parametrize("of", ["engine", "export"])
def test_weights_that_changed_since_the_build_are_no_reference(checkpoint: Path, of: str) -> None:
    build = built(checkpoint)
    before = sha256_of_file(checkpoint / WEIGHTS)
    change_last_weight(checkpoint / WEIGHTS)
    with pytest.raises(ExportError, match="other contents") as caught:
        validate(checkpoint.parent / of)
    for part in (WEIGHTS, before, sha256_of_file(checkpoint / WEIGHTS)):
        assert part in caught.value.details["found"]
    change_last_weight(checkpoint / WEIGHTS)
    validate(build.path)


def test_a_build_alone_knows_its_checkpoint(checkpoint: Path) -> None:
    build = built(checkpoint)
    shutil.rmtree(checkpoint.parent / "export")
    validate(build.path)
    change_last_weight(checkpoint / WEIGHTS)
    with pytest.raises(ExportError, match="other contents"):
        validate(build.path)


def test_weights_in_the_export_and_in_the_checkpoint_are_both_compared(checkpoint: Path) -> None:
    build = built(checkpoint, copy=True)
    validate(build.path)
    change_last_weight(checkpoint / WEIGHTS)
    with pytest.raises(ExportError, match="other contents") as caught:
        validate(build.path)
    assert caught.value.details["where"] == str(checkpoint)


def test_nothing_is_known_of_a_named_reference(checkpoint: Path, original: Path) -> None:
    build = built(checkpoint)
    shutil.rmtree(checkpoint.parent / "export")
    change_last_weight(checkpoint / WEIGHTS)
    validate(build.path, reference=checkpoint)


@pytest.mark.parametrize("arch", ["cpu", "hopper"])
def test_the_damaged_file_of_a_build_is_named(checkpoint: Path, arch: str) -> None:
    build = built(checkpoint, arch)
    os.truncate(build.weights, build.weights.stat().st_size - 8)
    with pytest.raises(ArtifactError, match="build is incomplete") as caught:
        validate(build.path)
    assert build.weights.name in caught.value.details["found"]
