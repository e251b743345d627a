"""Temporary directories, unfinished files, and what dead processes left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from r1trt.errors import R1TrtError
from r1trt.lifetime.identity import ProcessIdentity
from r1trt.lifetime.temporary import remove_if_left_behind, temporary_directory, unfinished

MAKE = """
import sys, time
from pathlib import Path
from r1trt.lifetime.temporary import temporary_directory, unfinished
with temporary_directory("x") as directory, unfinished(Path(sys.argv[1]) / "target") as partial:
    (directory / "file").touch()
    partial.mkdir()
    (partial / "file").touch()
    print(directory, partial, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_the_next_process_removes_what_a_killed_one_left(temporary: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        left = [Path(name) for name in child.stdout.readline().split()]
        # Of a process that runs nothing is removed.
        with temporary_directory("y"), unfinished(tmp_path / "target"):
            assert all(path.exists() for path in left)
        child.send_signal(signal.SIGKILL)
    assert all(path.exists() for path in left)
    with temporary_directory("y") as own, unfinished(tmp_path / "target"):
        assert list(temporary.iterdir()) == [own]
    assert sorted(tmp_path.iterdir()) == [temporary] and list(temporary.iterdir()) == []


def test_a_number_that_was_given_again_is_another_process() -> None:
    own = ProcessIdentity.own()
    assert not own.is_dead
    assert ProcessIdentity(own.namespace, own.pid, own.started - 1).is_dead
    # In another container's namespace the number means nothing here.
    assert not ProcessIdentity(own.namespace + 1, own.pid, own.started - 1).is_dead


@pytest.mark.parametrize(
    "name", ["r1trt-notes", "r1trt-a-b-c", "r1trt-x-1.2-y", "x", "-", "r1trt-x-9.9.9.9-y"]
)
def test_other_names_are_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    remove_if_left_behind(tmp_path / name)
    assert (tmp_path / name).is_dir()


def test_no_place_for_temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(R1TrtError, match="temporary directory cannot be made"), temporary_directory("x"):
        pass


def test_identities_are_read_back() -> None:
    own = ProcessIdentity.own()
    assert own.pid == os.getpid() and ProcessIdentity.from_text(str(own)) == own
    assert ProcessIdentity.from_text("1.2") is None
