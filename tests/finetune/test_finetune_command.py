"""`r1trt finetune` as a user runs it: the result, what a build makes of it, and what is refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune.finetuning import HELDOUT, TEXT, WINDOW, write_model
from tiny_checkpoints import write_deepseek

from r1trt.artifacts.build import BuildDirectory
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.cli import main
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.model import load_checkpoint
from r1trt.precision.plan_file import load_plan


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "checkpoint")


@pytest.fixture
def command(model: Path, tmp_path: Path) -> list[str]:
    for name, text in (("text", TEXT), ("heldout", HELDOUT)):
        (tmp_path / f"{name}.txt").write_text(text)
    return [
        "finetune", str(model), "-o", str(tmp_path / "tuned"), "--text", str(tmp_path / "text.txt"),
        "--heldout", str(tmp_path / "heldout.txt"), "--heldout-tokens", "300", "--seq-len", str(WINDOW),
        "--epochs", "1", "--threads", "1",
    ]  # fmt: skip


def left(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {"text.txt", "heldout.txt"}


def test_a_checkpoint_that_a_build_takes_without_calibrating(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--fp8", "--arch", "cpu", "--keep-layers=-1", "--learning-rate", "1e-4"]) == 0
    shown, tuned = capsys.readouterr().out, tmp_path / "tuned"
    assert "FP8, fine-tuned" in shown and "with recomputation" in shown and "recovered" in shown
    assert left(tmp_path) == {"tuned"}
    (following,) = [line for line in shown.splitlines() if line.startswith("next: ")]
    assert shlex.split(following)[1:4] == ["r1trt", "export", str(tuned)]
    assert str(BuildDirectory(path=tuned).precision_plan) in following

    report = json.loads((tuned / "finetuning.json").read_text())
    assert len(report["losses"]) == report["steps"] == report["windows"] // 4
    assert report["memory"]["recomputed"] < report["memory"]["kept"]
    assert report["memory"]["kept_layers"] == [1]
    [record] = json.loads((tuned / "config.json").read_text())["r1trt_finetuning"]
    assert record["loss"] == report["loss"] and record["window"] == WINDOW
    assert {p.dtype for p in load_checkpoint(tuned).parameters()} == {torch.bfloat16}

    phases: list[str] = []
    export = export_checkpoint(ExportConfig(checkpoint=tuned, output=tmp_path / "export"))
    plan = BuildDirectory(path=tuned).precision_plan
    build = build_engine(
        BuildConfig(model=export, arch="cpu", plan=plan), lambda phase, *_: phases.append(phase)
    )
    assert not any("measuring" in phase for phase in phases)
    given, taken = load_plan(plan), load_plan(BuildDirectory(path=build).precision_plan)
    assert not given.missing_scales and given.layers == taken.layers
    assert given.calibration["method"] == "fine-tuning"


def test_json_is_one_document(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--bf16", "--loss", "next-token", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("path") == str(tmp_path / "tuned")
    assert printed == json.loads((tmp_path / "tuned" / "finetuning.json").read_text())
    assert (printed["precision"], printed["loss"], printed["memory"]) == ("bf16", "next-token", None)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "needs one precision"),
        (["--fp8", "--bf16"], 2, "needs one precision"),
        (["--fp8", "--keep-layers=-3"], 2, "layers that the model does not have"),
        (["--fp8", "--keep-layers=last"], 2, "no list of layers"),
        (["--fp8", "--learning-rate", "0"], 2, "--learning-rate is out of range"),
        (["--fp8", "--arch", "ampere"], 2, "no FP8 to train for"),
        (["--fp8", "--batch", "999"], 1, "shorter than one batch"),
        (["--fp8", "--epochs", "0"], 2, "0"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str], code: int, message: str, command: list[str], tmp_path: Path, capsys: Any
) -> None:
    assert main([*command, *arguments]) == code
    assert message in capsys.readouterr().err
    assert left(tmp_path) == set()


def test_a_text_shorter_than_one_batch(command: list[str], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "text.txt").write_text("Too short.")
    assert main([*command, "--fp8"]) == 1
    error = capsys.readouterr().err
    assert "shorter than one batch" in error and "text.txt" in error and f"{4 * WINDOW + 1}" in error
    assert left(tmp_path) == set()


def test_a_model_without_a_reference_module(tmp_path: Path, capsys: Any) -> None:
    checkpoint = write_deepseek(tmp_path / "v3", tokenizer=True)
    assert main(["finetune", str(checkpoint), "--fp8", "-o", str(tmp_path / "tuned")]) == 1
    error = capsys.readouterr().err
    assert "no PyTorch reference module" in error and "DeepseekV3ForCausalLM" in error
    assert left(tmp_path) == {"v3"}


def test_what_is_there_is_not_replaced(command: list[str], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "mine").write_text("mine")
    assert main([*command, "--fp8"]) == 1
    assert "The output is there already" in capsys.readouterr().err
    assert left(tmp_path / "tuned") == {"mine"}


def test_a_loss_that_is_no_number_leaves_the_last_state(
    model: Path, tmp_path: Path, capsys: Any, command: list[str]
) -> None:
    code = main([*command, "--fp8", "--learning-rate", "1e30", "--save-every", "1"])
    error = capsys.readouterr().err
    assert code == 1 and "not finite" in error and "lower --learning-rate" in error
    assert left(tmp_path) == {"tuned.training"}
