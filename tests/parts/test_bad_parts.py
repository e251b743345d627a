"""Parts that are missing, changed, of another build, or in another's place; and options that cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from split_models import SplitModel

from r1trt.artifacts.build import BuildArtifact
from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.parts import HASHED_BYTES, PartsArtifact
from r1trt.build.pipeline import build_engine, parts_of_build
from r1trt.cli import main
from r1trt.errors import UsageError
from r1trt.runtime.load import session_from_engine


@pytest.fixture
def parts(llama: SplitModel, tmp_path: Path) -> Path:
    return shutil.copytree(llama.engine(3), tmp_path / "parts")


def flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def exchange(path: Path, other: Path) -> None:
    path.rename(path.with_name("between"))
    other.rename(path)
    path.with_name("between").rename(other)


def test_a_part_is_missing(parts: Path) -> None:
    shutil.rmtree(parts / "part-01")
    with pytest.raises(ArtifactError, match="Part 1 of 3 is missing"):
        session_from_engine(parts)


def test_a_part_changed(parts: Path) -> None:
    flip_last_byte(parts / "part-02" / "weights.safetensors")
    with pytest.raises(ArtifactError, match="A part changed") as error:
        session_from_engine(parts)
    assert "part-02" in str(error.value)


def test_a_large_file_of_a_part_changed(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too large to be hashed at every load is hashed by a validation."""
    assert HASHED_BYTES > 0
    monkeypatch.setattr("r1trt.artifacts.parts.HASHED_BYTES", 0)
    flip_last_byte(parts / "part-02" / "weights.safetensors")
    session_from_engine(parts).close()
    with pytest.raises(ArtifactError, match="A part changed"):
        PartsArtifact.of(BuildArtifact.read(parts)).require_unchanged()


def test_parts_in_the_wrong_order(parts: Path) -> None:
    exchange(parts / "part-00", parts / "part-01")
    with pytest.raises(ArtifactError, match="wrong order"):
        session_from_engine(parts)


def test_a_part_of_another_build(parts: Path, llama: SplitModel) -> None:
    shutil.rmtree(parts / "part-00")
    shutil.copytree(llama.engine(4) / "part-00", parts / "part-00")
    with pytest.raises(ArtifactError, match="another build"):
        session_from_engine(parts)


def test_a_whole_engine_in_the_place_of_a_part(parts: Path, llama: SplitModel) -> None:
    shutil.rmtree(parts / "part-00")
    shutil.copytree(llama.engine(), parts / "part-00")
    with pytest.raises(ArtifactError, match="another build"):
        session_from_engine(parts)


@pytest.mark.parametrize(
    ("key", "value"),
    [("parts", [1]), ("build", "no hash"), ("hidden_size", 0), ("hidden_type", "float8")],
)
def test_the_list_of_parts_is_damaged(parts: Path, key: str, value: Any) -> None:
    manifest = json.loads((parts / "parts.json").read_text())
    size = (parts / "parts.json").stat().st_size
    text = json.dumps({**manifest, key: value})
    (parts / "parts.json").write_text(text + " " * (size - len(text)))
    with pytest.raises(ArtifactError, match=r"list of a model's parts|incomplete"):
        session_from_engine(parts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": 5}, "one layer at least"),
        ({"parts": 0}, "--parts is too small"),
        ({"max_part_bytes": 1000}, "larger than a part may be"),
        ({"parts": 1, "max_part_bytes": 400_000}, "more than were asked for"),
    ],
)
def test_cuts_that_cannot_be(llama: SplitModel, options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parts_of_build(llama.config(**{"parts": None, **options}))


def test_a_finished_model_in_parts_is_not_built_again(
    parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(parts)]) == 1
    assert "finished build" in capsys.readouterr().err


def test_a_repository_takes_one_engine(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["triton", str(parts), "-o", str(tmp_path / "repository")]) == 1
    assert "one engine" in capsys.readouterr().err


def test_a_part_of_an_earlier_build_goes_with_it(llama: SplitModel, tmp_path: Path) -> None:
    output = tmp_path / "engine"
    for parts in (3, 2):
        build_engine(llama.config(parts, output=output))
    assert sorted(path.name for path in output.glob("part-*")) == ["part-00", "part-01"]
