"""How FP8 scales are found is said on the command line, and written into the plan."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from tiny_checkpoints import write_r1_asa

from r1trt.cache import CACHE_VARIABLE
from r1trt.cli import main
from r1trt.precision.plan_file import load_plan

TEXT = "The cat sat on the mat, and 17 other things happened on 3 May. " * 40
HOPPER = ("build", "engines/tiny", "--arch", "hopper", "--fp8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_r1_asa(tmp_path / "tiny", tokenizer=True, num_experts=32, head_dim=64)
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    assert main(["export", "tiny", "--max-seq-len", "64"]) == 0
    return tmp_path


def test_a_build_says_how_it_calibrated(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a machine without the GPU everything but the engine is there."""
    options = ("--calibration-method", "percentile", "--calibration-percentile", "99.5")
    assert main([*HOPPER, *options, "--calibration-tokens", "600", "--calibration", "text.txt"]) == 3
    printed = capsys.readouterr().err
    record = load_plan(here / "engines" / "tiny" / "hopper-fp8" / "precision.yaml").calibration
    assert (record["method"], record["percentile"], record["text"]) == ("percentile", 99.5, "text.txt")
    assert 600 <= int(record["tokens"]) < 600 + 512
    rare = [key for key in record if key.startswith("experts with too few tokens in ")]
    assert len(rare) == 2 and str(record[rare[0]]).partition(": ")[0].endswith(" of 32")
    assert printed.count("experts that saw fewer than 32 tokens") == 1
    assert len(list((here / "cache" / "calibration").iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--calibration-percentile", "99"), 2, "is for --calibration-method percentile"),
        (("--calibration-method", "percentile", "--calibration-percentile", "101"), 2, "101"),
        (("--calibration-method", "entropy"), 2, "'entropy' is not one of"),
        (("--calibration-tokens", "10"), 2, "10 is not in the range"),
        (
            ("--plan", "text.txt", "--calibration-method", "amax"),
            2,
            "--plan and --calibration-method exclude",
        ),
        (
            ("--plan", "text.txt", "--no-compensate", "--calibration-tokens", "999"),
            2,
            "--plan and --calibration-tokens exclude",
        ),
    ],
)
def test_options_that_do_not_fit(
    options: tuple[str, ...], code: int, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*HOPPER, *options]) == code
    assert message in capsys.readouterr().err


def test_a_plan_is_compensated_on_a_text_of_ones_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cpu = ("build", "engines/tiny", "--arch", "cpu")
    assert main([*cpu, "--int8", "-o", "first"]) == 0
    plan = ("--plan", "first/precision.yaml", "--calibration", "text.txt", "-o", "second")
    assert main([*cpu, *plan]) == 2
    assert "add --compensate" in capsys.readouterr().err and not (here / "second").exists()
    assert main([*cpu, *plan, "--compensate", "--calibration-tokens", "600"]) == 0
    record = load_plan(here / "second" / "precision.yaml").calibration
    digest = hashlib.sha256(TEXT.encode()).hexdigest()
    assert (record["compensated_text"], record["compensated_text_sha256"]) == ("text.txt", digest)
    assert 600 <= int(record["compensated_tokens"]) < 600 + 512
