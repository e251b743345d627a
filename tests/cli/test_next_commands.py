"""The command that a result names next, copied into a shell."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from tiny_checkpoints import write_llama

from r1trt.cli import main


@pytest.mark.parametrize("folder", ["models", "my models", "it's $HOME; `x`"])
def test_it_means_the_same_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str) -> None:
    base = tmp_path / folder
    checkpoint, export, build = base / "checkpoint", base / "export", base / "build"
    write_llama(checkpoint, tokenizer=True)
    for arguments, expected in (
        (["export", str(checkpoint), "-o", str(export)], ["build", str(export), "--arch", "ada", "--fp8"]),
        (["build", str(export), "--arch", "cpu", "-o", str(build)], ["validate", str(build)]),
    ):
        capsys.readouterr()
        assert main(arguments) == 0
        (following,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
        assert shlex.split(following.removeprefix("next: ")) == ["r1trt", *expected]
