"""The commands one after the other, on a tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import write_llama

from r1trt.cli import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to work in, as a user does: results go to `engines/` in it."""
    write_llama(tmp_path / "tiny", tokenizer=True, head_dim=64)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = main([*arguments, "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.out
    result = json.loads(printed.out)
    assert isinstance(result, dict)
    return result


def test_defaults_lead_from_a_checkpoint_to_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_json(capsys, "export", "tiny", "--max-seq-len", "64")["path"] == "engines/tiny"
    built = run_json(capsys, "build", "--arch", "cpu")
    assert built["path"] == "engines/tiny/cpu-fp32" and built["manifest"]["status"] == "complete"
    answer = run_json(capsys, "generate", built["path"], "--prompt", "hello", "--max-new-tokens", "4")
    assert answer["new_tokens"] <= 4 and isinstance(answer["text"], str)
    run_json(capsys, "triton", built["path"], "-o", "repository")
    for path in ("tiny", "engines/tiny", built["path"], "repository"):
        assert run_json(capsys, "inspect", path)["path"] == path


def test_text_goes_to_stdout_and_figures_to_stderr(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "tiny", "--max-seq-len", "64"]) == 0
    assert main(["generate", "engines/tiny", "--prompt", "hello", "--max-new-tokens", "4"]) == 0
    printed = capsys.readouterr()
    assert "tokens" in printed.err and "prompt tokens" not in printed.out


def test_build_without_an_export_says_what_to_do(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--arch", "cpu"]) == 1
    assert "r1trt export" in capsys.readouterr().err


def test_ampere_has_no_fp8(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "tiny", "--max-seq-len", "64"]) == 0
    assert main(["build", "--arch", "ampere", "--fp8"]) == 1
    assert "--bf16" in capsys.readouterr().err


def test_hopper_stops_in_front_of_the_engine(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a machine without that GPU: exit code 3, and a directory that can be finished elsewhere."""
    assert main(["export", "tiny", "--max-seq-len", "64"]) == 0
    capsys.readouterr()
    assert main(["build", "--arch", "hopper", "--bf16", "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "UnavailableError"
    assert "r1trt build engines/tiny/hopper-bf16" in error["fix"]
    summary = run_json(capsys, "inspect", "engines/tiny/hopper-bf16")
    assert summary["facts"]["status"] == "needs-engine"
    assert main(["triton", "engines/tiny/hopper-bf16", "-o", "repository"]) == 1
