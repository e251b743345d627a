"""`r1trt prune` as a user runs it: what it shows, what it refuses, and that nothing half-written stays."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from prune.pruning import HELDOUT, TEXT, config_for
from tiny_checkpoints import write_deepseek, write_llama, write_r1_asa

from r1trt.cli import main
from r1trt.errors import R1TrtError
from r1trt.prune.prune import prune_checkpoint


@pytest.fixture(scope="module")
def v3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeepSeek-V3 of 16 experts in 4 groups, of which a token takes 3 in 2."""
    directory = tmp_path_factory.mktemp("v3")
    return write_deepseek(directory / "checkpoint", tokenizer=True, n_routed_experts=16)


@pytest.fixture
def command(v3: Path, tmp_path: Path) -> list[str]:
    for name, text in (("calibration", TEXT), ("heldout", HELDOUT)):
        (tmp_path / f"{name}.txt").write_text(text)
    return [
        "prune", str(v3), "-o", str(tmp_path / "pruned"), "--calibration", str(tmp_path / "calibration.txt"),
        "--calibration-tokens", "300", "--heldout", str(tmp_path / "heldout.txt"), "--heldout-tokens", "300",
    ]  # fmt: skip


def left(directory: Path) -> set[str]:
    """What lies in a directory, hidden names too."""
    return {path.name for path in directory.iterdir()} - {"calibration.txt", "heldout.txt"}


def test_a_table_and_a_report(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--remove", "50%"]) == 0
    text = capsys.readouterr().out
    assert "experts of a layer 16 to 8" in text and "held-out text: perplexity" in text
    assert "CAUTION: 50% of 16 experts" in text and "Moonlight-16B" in text
    (following,) = [line for line in text.splitlines() if line.startswith("next: ")]
    assert shlex.split(following)[1:] == ["r1trt", "export", str(tmp_path / "pruned")]
    found = json.loads((tmp_path / "pruned" / "pruning.json").read_text())
    assert (found["before"]["experts"], found["after"]["experts"]) == (16, 8)
    [layer] = found["layers"]
    assert sorted(layer["kept"] + layer["removed"]) == list(range(16))
    assert [sum(expert // 4 == group for expert in layer["kept"]) for group in range(4)] == [2] * 4
    assert sum(layer["tokens"]) == 3 * found["calibration_tokens"]
    for group in range(4):
        own = range(4 * group, 4 * group + 4)
        worst_kept = min(layer["saliency"][expert] for expert in own if expert in layer["kept"])
        assert all(layer["saliency"][e] <= worst_kept for e in own if e in layer["removed"])
    assert found["accuracy"]["tokens"] == 300 and found["accuracy"]["kl_mean"] > 0
    page = (tmp_path / "pruned" / "pruning.html").read_text()
    assert page.count("<svg") == 2 and page.count(", removed: ") == page.count(", kept: ") == 16
    assert f"layer 1, expert 5, {'kept' if 5 in layer['kept'] else 'removed'}: saliency" in page


def test_json_is_one_document(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--keep", "12", "--criterion", "frequency", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed.pop("dry_run"), printed.pop("path")) == (False, str(tmp_path / "pruned"))
    assert printed == json.loads((tmp_path / "pruned" / "pruning.json").read_text())
    assert printed["criterion"] == "frequency"


def test_a_dry_run_shows_the_table_and_writes_nothing(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--keep", "8", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "% of contributions" in text and "nothing was written" in text and "perplexity" not in text
    assert left(tmp_path) == set()
    assert main([*command, "--keep", "8", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--keep", "2"], 1, "needs more experts than would be left"),
        (["--keep", "16"], 1, "Nothing would be removed"),
        (["--keep", "9"], 1, "groups of experts would become unequal"),
        (["--keep", "4"], 1, "fewer experts than it needs"),
        ([], 2, "needs one of --keep and --remove"),
        (["--keep", "8", "--remove", "50%"], 2, "needs one of --keep and --remove"),
        (["--remove", "120%"], 2, "--remove is out of range"),
        (["--keep", "8", "--seed", "1"], 2, "--seed belongs to --criterion random"),
        (["--keep", "8", "--heldout-tokens", "9"], 2, "9"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str],
    code: int,
    message: str,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*command, *arguments]) == code
    assert message in capsys.readouterr().err
    assert left(tmp_path) == set()


@pytest.mark.parametrize("name", ["calibration", "heldout"])
def test_a_text_shorter_than_a_window(
    name: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"{name}.txt").write_text("Too short.")
    assert main([*command, "--keep", "8"]) == 1
    error = capsys.readouterr().err
    assert f"The {name} text is too short to measure on." in error
    assert f"{name}.txt" in error and f"--{name}" in error
    assert left(tmp_path) == set()


def test_text_that_is_scored_on_says_nothing_of_accuracy(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--keep", "8", "--heldout", str(tmp_path / "calibration.txt")]) == 2
    assert "Held-out text is what nothing else reads" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_what_is_there_is_not_replaced(
    kind: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "pruned"
    if kind == "directory":
        output.mkdir()
        (output / "mine").write_text("mine")
    else:
        output.symlink_to("nowhere")
    assert main([*command, "--keep", "8"]) == 1
    error = capsys.readouterr().err
    assert "The output is there already." in error and "scoring" not in error
    assert left(tmp_path) == {"pruned"}
    assert output.is_symlink() or (output / "mine").read_text() == "mine"


def test_a_model_without_experts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True)
    assert main(["prune", str(checkpoint), "--keep", "4", "-o", str(tmp_path / "pruned")]) == 1
    assert "The model has no experts to remove." in capsys.readouterr().err


@pytest.mark.parametrize("phase", ["scoring experts", "writing weights", "comparing"])
def test_an_end_at_any_moment_leaves_nothing(phase: str, v3: Path, tmp_path: Path) -> None:
    def end(at: str, done: int, total: int) -> None:
        if at == phase and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune_checkpoint(config_for(v3, tmp_path, keep=8), end)
    assert left(tmp_path) == set()


def test_scores_go_on_where_they_were(tmp_path: Path) -> None:
    checkpoint = write_r1_asa(tmp_path / "checkpoint", tokenizer=True)
    config = config_for(checkpoint, tmp_path, keep=6, calibration_tokens=1024)
    seen: list[int] = []

    def progress(phase: str, done: int, total: int) -> None:
        if phase == "scoring experts":
            seen.append(done)
            if len(seen) == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune_checkpoint(config, progress)
    result = prune_checkpoint(config, progress)
    assert seen[:4] == [0, 1, 2, 2]
    other = config_for(checkpoint, tmp_path, keep=6, calibration_tokens=1024, output=tmp_path / "other")
    assert prune_checkpoint(other, progress).to_json() == result.to_json()
    assert seen[-1] == seen[-2] == max(seen)  # the third one measured nothing


def test_weights_that_change_meanwhile(tmp_path: Path) -> None:
    checkpoint = write_r1_asa(tmp_path / "checkpoint", tokenizer=True)
    weights = checkpoint / "model.safetensors"

    def progress(phase: str, done: int, total: int) -> None:
        if phase == "scoring experts" and done == total:
            weights.write_bytes(weights.read_bytes())

    with pytest.raises(R1TrtError, match="changed while it was used"):
        prune_checkpoint(config_for(checkpoint, tmp_path, keep=6), progress)
    assert left(tmp_path) == {"checkpoint"}


@pytest.mark.parametrize("value", [None, "much", {"experts": 3}])
def test_a_foreign_record_is_no_record(value: Any, tmp_path: Path) -> None:
    checkpoint = write_r1_asa(tmp_path / "checkpoint", tokenizer=True)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "r1trt_pruning": value}))
    prune_checkpoint(config_for(checkpoint, tmp_path, keep=6))
    assert len(json.loads((tmp_path / "pruned" / "config.json").read_text())["r1trt_pruning"]) == 1
