"""`r1trt chat`, with lines from a pipe and at a terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from tiny_checkpoints import write_llama

from r1trt.export.export import ExportConfig, export_checkpoint

QUESTIONS = ("Every function writes", "And then?")
OPTIONS = ("--max-new-tokens", "8", "--temperature", "0")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("chat")
    checkpoint = write_llama(directory / "checkpoint", tokenizer=True, seed=4)
    output = directory / "export"
    return export_checkpoint(ExportConfig(checkpoint=checkpoint, output=output, max_seq_len=128))


def command(engine: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "r1trt", "chat", str(engine), *OPTIONS, *options]


def piped(engine: Path, lines: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(engine, *options), input=lines, capture_output=True, text=True, check=False, timeout=120
    )


def test_each_line_is_answered_until_the_input_ends(engine: Path) -> None:
    done = piped(engine, "\n".join([QUESTIONS[0], "", QUESTIONS[1], "/reset", QUESTIONS[0]]), "--json")
    assert done.returncode == 0, done.stderr
    first, second, again = map(json.loads, done.stdout.splitlines())
    assert first["text"] == again["text"] and first["prompt_tokens"] == again["prompt_tokens"]
    assert second["held_tokens"] > 0 and second["prompt_tokens"] > first["prompt_tokens"]
    assert first["sampling"] == {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0}


def test_exit_ends_and_unknown_commands_are_said_to_be(engine: Path) -> None:
    done = piped(engine, "/what\n/help\n/exit\nnever asked\n")
    assert done.returncode == 0 and done.stdout == ""
    assert "no command /what; there are /reset, /help, /exit" in done.stderr
    assert "/reset  forget what was said" in done.stderr


def test_an_error_ends_a_script(engine: Path) -> None:
    done = piped(engine, "word " * 400 + "\n" + QUESTIONS[0])
    assert done.returncode == 1 and done.stdout == ""
    assert "longer than the engine's KV cache" in done.stderr and "where: line 1" in done.stderr


@pytest.mark.parametrize("encoding", ["utf-8:strict", "latin-1"])
def test_bytes_that_are_no_text_are_an_error_in_every_locale(engine: Path, encoding: str) -> None:
    done = subprocess.run(
        command(engine), input=b"Hi\nh\xff\n", capture_output=True, check=False, timeout=120,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert done.returncode == 1
    assert b"a byte that is not UTF-8" in done.stderr and b"where: line 2" in done.stderr


class Terminal:
    """The command at a terminal of its own."""

    def __init__(self, arguments: list[str]) -> None:
        self._ours, theirs = pty.openpty()
        self.settings = termios.tcgetattr(theirs)
        self._theirs = theirs
        self.process = subprocess.Popen(
            arguments, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**os.environ, "TERM": "dumb"},
        )  # fmt: skip
        self.text = ""

    def expect(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + 60
        while self.text.count(text) < times:
            assert time.monotonic() < deadline, self.text
            self.text += os.read(self._ours, 4096).decode(errors="replace")

    def type(self, line: str) -> None:
        os.write(self._ours, line.encode())

    def current_settings(self) -> list[object]:
        return termios.tcgetattr(self._theirs)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


def test_at_a_terminal_errors_are_survived_and_the_end_of_the_input_ends(engine: Path) -> None:
    terminal = Terminal(command(engine))
    try:
        terminal.expect("> ")
        terminal.type("word " * 150 + "\n")
        terminal.expect("/reset begins anew")
        terminal.type(QUESTIONS[0] + "\n")
        terminal.expect("new (length, temperature 0)")
        terminal.expect("> ", times=3)
        terminal.type("\x04")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.close()


def test_answers_alone_go_to_a_file(engine: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
            process = subprocess.Popen(
                command(engine, "--json"), stdin=theirs, stdout=out, stderr=err, start_new_session=True
            )
            os.write(ours, QUESTIONS[0].encode() + b"\n/exit\n")
            assert process.wait(60) == 0
    finally:
        os.close(ours)
        os.close(theirs)
    (line,) = (tmp_path / "out").read_text().splitlines()
    assert json.loads(line)["new_tokens"] == 8
    assert "> " in (tmp_path / "err").read_text()


def test_ctrl_c_leaves_the_terminal_as_it_was(engine: Path) -> None:
    terminal = Terminal(command(engine))
    try:
        terminal.expect("> ")
        time.sleep(0.2)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(30) == 130
        assert terminal.current_settings() == terminal.settings
    finally:
        terminal.close()
