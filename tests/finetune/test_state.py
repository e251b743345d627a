"""States on the disk that are another training's, or damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from r1trt.artifacts.errors import ArtifactError
from r1trt.finetune.state import SavedState, load_state, save_state

RUN = {"seed": 0, "learning_rate": 1e-5}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for losses in ([0.1], [0.1, 1 / 3]):
        save_state(tmp_path / "state", RUN, SavedState(losses=losses, tensors={"a": torch.ones(3) / 3}))
    return tmp_path / "state"


def test_what_is_read_is_what_was_written(directory: Path) -> None:
    found = load_state(directory, RUN)
    assert found is not None and found.losses == [0.1, 1 / 3] and found.step == 2
    assert torch.equal(found.tensors["a"], torch.ones(3) / 3)
    assert {path.name for path in directory.iterdir()} == {"state.json", "step-00000002.safetensors"}


def test_there_may_be_none(tmp_path: Path) -> None:
    assert load_state(tmp_path / "state", RUN) is None


def test_another_training_is_not_gone_on_with(directory: Path) -> None:
    with pytest.raises(ArtifactError, match="other options") as caught:
        load_state(directory, {**RUN, "seed": 1})
    assert (caught.value.details["found"], caught.value.details["expected"]) == ("seed 0", "seed 1")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("step-00000002.safetensors", b"other"),
        ("state.json", b"{"),
        ("state.json", b'{"run": {}, "losses": []}'),
        (
            "state.json",
            b'{"run": {"seed": 0, "learning_rate": 1e-5}, "losses": [], "file": "../x", "sha256": "0"}',
        ),
    ],
)
def test_damage_is_named(directory: Path, name: str, content: bytes) -> None:
    (directory / name).write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        load_state(directory, RUN)
    assert str(directory) in caught.value.details["where"]
