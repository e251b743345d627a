"""Names that are no text: refused where they are given, and in what they are relative to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from r1trt.artifacts import read_artifact
from r1trt.artifacts.atomic import atomic_directory
from r1trt.artifacts.errors import ArtifactError
from r1trt.checkpoint import checkpoint_from_dir
from r1trt.cli import main
from r1trt.errors import CheckpointError

NAME = os.fsdecode(b"a\xffb")
COMMANDS = (
    ("inspect", NAME), ("export", NAME), ("build", NAME), ("validate", NAME), ("triton", NAME),
    ("generate", NAME, "--prompt", "a"), ("build", ".", "--plan", NAME), ("export", ".", "-o", NAME),
)  # fmt: skip


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_arguments(
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / NAME).mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert "not Unicode" in capsys.readouterr().err


def test_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / NAME).mkdir()
    monkeypatch.chdir(tmp_path / NAME)
    assert main(["inspect", "."]) == 2
    assert "not Unicode" in capsys.readouterr().err


def test_functions(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.mkdir()
    with pytest.raises(ArtifactError, match="not Unicode"):
        read_artifact(path)
    with pytest.raises(CheckpointError, match="not Unicode"):
        checkpoint_from_dir(path)
    with pytest.raises(ArtifactError, match="not Unicode"), atomic_directory(path / "out"):
        pass
