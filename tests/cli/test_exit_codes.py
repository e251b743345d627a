from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from r1trt.cli import cli, main
from r1trt.errors import BuildError, R1TrtError, UnavailableError

FailWith = Callable[[BaseException], None]


@pytest.fixture
def fail_with() -> Iterator[FailWith]:
    """Adds a command `fail` that raises what it is given."""

    def register(error: BaseException) -> None:
        @cli.command("fail")
        @click.option("--json", "as_json", is_flag=True)
        def fail(as_json: bool) -> None:
            raise error

    yield register
    cli.commands.pop("fail", None)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            BuildError("No engine.", where="layer", fix="do this"),
            1,
            "error: No engine.\n  where: layer\n  fix: do this",
        ),
        (UnavailableError("No GPU.", fix="r1trt build X"), 3, "error: No GPU.\n  fix: r1trt build X"),
        (
            OSError(28, "No space left on device", "engines/x"),
            1,
            "No space left on device\n  where: engines/x",
        ),
        (MemoryError(), 1, "Out of memory."),
        (KeyboardInterrupt(), 130, "interrupted; earlier results are unchanged"),
    ],
)
def test_expected_failures_are_messages(
    error: BaseException,
    code: int,
    message: str,
    fail_with: FailWith,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fail_with(error)
    assert main(["fail"]) == code
    printed = capsys.readouterr()
    assert message in printed.err and "Traceback" not in printed.err and not printed.out


@pytest.mark.parametrize("error", [BuildError("No engine.", found=3), UnavailableError("No GPU.")])
def test_failures_as_json(error: R1TrtError, fail_with: FailWith, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(error)
    assert main(["fail", "--json"]) == error.exit_code
    assert json.loads(capsys.readouterr().out)["error"] == {
        "type": type(error).__name__,
        "message": error.message,
        **error.details,
        "exit_code": error.exit_code,
    }


def test_wrong_usage_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "UsageError"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            "build . --arch ada --plan file --no-compensate --calibration file",
            "--plan and --calibration exclude each other",
        ),
        ("build . --no-cache --max-seq-len 8 --arch cpu", "--no-cache builds none"),
        ("generate . --raw --system Be-brief --prompt Hello", "leave out --raw, or --system"),
        ("precision search . --arch ada", "A search needs a budget."),
        ("precision search . --arch ada --max-kl 1 --max-perplexity-increase 1%", "needs one budget"),
        ("precision search . --arch ada --max-kl 0", "above 0"),
        ("plugins check --sm 90", "A compute capability is named for compiling alone."),
        ("plugins check --host --time-budget 0", "The time budget must be positive."),
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(
    command: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file")
    assert main(command.split()) == 2
    assert says in capsys.readouterr().err
    assert main([*command.split(), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


def test_a_bug_is_not_hidden(fail_with: FailWith) -> None:
    fail_with(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["fail"])


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_clean_up(signum: signal.Signals, code: int, tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from r1trt.__main__ import entry_point
from r1trt.artifacts.atomic import atomic_directory
from r1trt.cli import cli

@cli.command("slow")
def slow():
    with atomic_directory(Path(target) / "result") as directory:
        (directory / "half").write_text("half")
        print("ready", flush=True)
        time.sleep(600)

target, sys.argv[1:] = sys.argv[1], ["slow"]
entry_point()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        child.send_signal(signum)
        _, errors = child.communicate(timeout=300)
    assert child.returncode == code
    assert len(errors.strip().splitlines()) == 1 and "earlier results are unchanged" in errors
    assert list(tmp_path.iterdir()) == []
