from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from r1trt.artifacts.atomic import atomic_directory
from r1trt.artifacts.disk import is_mount_point
from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.manifest import read_manifest, write_manifest
from r1trt.errors import R1TrtError

REPOSITORY = Path(__file__).resolve().parents[2]


def make(target: Path, text: str, *, replace: bool = True) -> None:
    with atomic_directory(target, replace=replace) as work:
        (work / "sub").mkdir()
        (work / "sub" / "data.txt").write_text(text)
        write_manifest(work, {"kind": "export", "text": text})


def content(target: Path) -> str:
    text = (target / "sub" / "data.txt").read_text()
    assert read_manifest(target, "export")["text"] == text
    return text


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Starts a process with `target` (first argument) and this module's imports at hand."""
    prelude = (
        "import os, sys, time\nfrom pathlib import Path\n"
        "from r1trt.artifacts.atomic import atomic_directory\n"
        "from r1trt.artifacts.errors import ArtifactError\n"
        "from r1trt.artifacts.manifest import write_manifest\ntarget = Path(sys.argv[1])\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", prelude + code, *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed_in(code: str, target: Path) -> int:
    """Runs `code` until it prints, kills it with SIGKILL, and returns its process id."""
    process = python(code, target)
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    assert line == "now\n", process.stderr.read()
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return process.pid


HANG = "print('now', flush=True); time.sleep(60)"
WRITE_AND_HANG = f"""
with atomic_directory(target) as work:
    (work / 'half').write_text('half')
    {HANG}
"""
# The process stops between the two renames of the swap: the audit hook sees the second one before it is made.
HANG_IN_SWAP = f"""
seen = []
def hook(event, arguments):
    if event == 'os.rename':
        seen.append(event)
        if len(seen) == 2:
            {HANG}
with atomic_directory(target) as work:
    write_manifest(work, {{'kind': 'export'}})
    sys.addaudithook(hook)
"""


def test_makes_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "result"
    make(target, "one")
    make(target, "two")
    assert content(target) == "two"
    assert names(target.parent) == ["result"]


def test_relative_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("result"), "one")
    assert content(tmp_path / "result") == "one"


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3), OSError(errno.EIO, "x")]
)
def test_failure_leaves_the_earlier_result(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "result"
    make(target, "one")
    with pytest.raises(type(error)), atomic_directory(target) as work:
        (work / "half").write_text("half")
        raise error
    assert content(target) == "one"
    assert names(tmp_path) == ["result"]


def test_killed_while_writing(tmp_path: Path) -> None:
    target = tmp_path / "result"
    make(target, "one")
    process = killed_in(WRITE_AND_HANG, target)
    assert content(target) == "one"
    assert [name for name in names(tmp_path) if name.startswith(f".result.tmp-{process}-")]
    make(target, "two")
    assert content(target) == "two"
    assert names(tmp_path) == ["result"]


def test_killed_before_a_first_result(tmp_path: Path) -> None:
    target = tmp_path / "result"
    killed_in(WRITE_AND_HANG, target)
    assert not target.exists()
    make(target, "one")
    assert names(tmp_path) == ["result"]


def test_killed_between_the_renames_of_the_swap(tmp_path: Path) -> None:
    target = tmp_path / "result"
    make(target, "one")
    killed_in(HANG_IN_SWAP, target)
    assert not target.exists()
    with pytest.raises(ArtifactError, match="exists already"), atomic_directory(target, replace=False):
        pass
    assert content(target) == "one"
    assert names(tmp_path) == ["result"]


def test_killed_before_the_previous_result_was_removed(tmp_path: Path) -> None:
    target = tmp_path / "result"
    make(target, "one")
    target.rename(tmp_path / ".result.old")
    make(tmp_path / "new", "two")
    (tmp_path / "new").rename(target)
    make(target, "three")
    assert content(target) == "three"
    assert names(tmp_path) == ["result"]


def put_inside(target: Path) -> None:
    """An artifact, one that is being written, and a plain folder, inside of a result."""
    make(target / "build", "of one")
    (target / ".other.tmp-1-00000000").mkdir()


def test_artifacts_inside_of_the_previous_result_are_kept(tmp_path: Path) -> None:
    target = tmp_path / "result"
    make(target, "one")
    put_inside(target)
    make(target, "two")
    assert content(target) == "two" and content(target / "build") == "of one"
    assert names(target) == [".other.tmp-1-00000000", "build", "manifest.json", "sub"]
    assert names(tmp_path) == ["result"]


def test_artifacts_inside_survive_a_kill_in_the_swap(tmp_path: Path) -> None:
    target = tmp_path / "result"
    make(target, "one")
    put_inside(target)
    target.rename(tmp_path / ".result.old")
    make(tmp_path / "new", "two")
    (tmp_path / "new").rename(target)
    with pytest.raises(ArtifactError, match="exists already"), atomic_directory(target, replace=False):
        pass
    assert content(target) == "two" and content(target / "build") == "of one"
    assert names(tmp_path) == ["result"]


def test_artifact_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "result"
    make(target, "one")
    with pytest.raises(ArtifactError, match="another kind"), atomic_directory(target, kind="engine"):
        pass
    assert content(target) == "one"


def test_living_process_keeps_its_directory(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    living = tmp_path / f".result.tmp-{process.pid}-00000000"
    foreign = tmp_path / ".result.tmp-backup"
    living.mkdir()
    foreign.mkdir()
    try:
        make(tmp_path / "result", "one")
        assert living.is_dir() and foreign.is_dir()
    finally:
        process.communicate(b"\n")
    make(tmp_path / "result", "two")
    assert not living.exists() and foreign.is_dir()


def test_second_writer_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "result"
    process = python(WRITE_AND_HANG, target)
    try:
        assert process.stdout is not None and process.stdout.readline() == "now\n"
        with pytest.raises(ArtifactError, match="another process is writing"):
            make(target, "mine")
        make(tmp_path / "other", "one")
    finally:
        process.kill()
        process.communicate()
    make(target, "mine")
    assert content(target) == "mine"


def test_many_writers_end_with_one_whole_result(tmp_path: Path) -> None:
    target = tmp_path / "result"
    code = """
for _ in range(20):
    try:
        with atomic_directory(target) as work:
            (work / 'sub').mkdir()
            (work / 'sub' / 'data.txt').write_text(sys.argv[2])
            write_manifest(work, {'kind': 'export', 'text': sys.argv[2]})
    except ArtifactError as error:
        assert 'another process' in str(error), error
"""
    processes = [python(code, target, name) for name in ("a", "b", "c")]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert content(target) in ("a", "b", "c")
    assert names(tmp_path) == ["result"]


def test_foreign_directories_are_not_replaced(tmp_path: Path) -> None:
    foreign = tmp_path / "home"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("ten years")
    with pytest.raises(ArtifactError, match="did not make"):
        make(foreign, "x")
    (foreign / "manifest.json").write_text(json.dumps({"name": "a browser extension"}))
    with pytest.raises(ArtifactError, match="did not make"):
        make(foreign, "x")
    assert (foreign / "thesis.txt").read_text() == "ten years"
    file, link, empty = tmp_path / "file", tmp_path / "link", tmp_path / "empty"
    file.write_text("x")
    empty.mkdir()
    link.symlink_to(empty)
    for path in (file, link):
        with pytest.raises(ArtifactError, match="not a directory"):
            make(path, "x")
    make(empty, "one")
    assert content(empty) == "one"


def test_directory_filled_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "result"
    with pytest.raises(ArtifactError, match="did not make"), atomic_directory(target):
        target.mkdir()
        (target / "thesis.txt").write_text("ten years")
    assert names(target) == ["thesis.txt"]


def test_replace_false(tmp_path: Path) -> None:
    make(tmp_path / "result", "one", replace=False)
    with pytest.raises(ArtifactError, match="exists already"):
        make(tmp_path / "result", "two", replace=False)
    assert content(tmp_path / "result") == "one"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "not an r1trt artifact"),
        ("{", "not an r1trt artifact"),
        ("[]", "malformed"),
        ('{"schema": 2, "kind": "export"}', "another version"),
        ('{"schema": 1, "kind": ["export"]}', "malformed"),
        ('{"schema": 1}', "malformed"),
        ('{"schema": 1, "kind": "engine"}', "another kind"),
    ],
)
def test_bad_manifest(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=message) as caught:
        read_manifest(tmp_path, "export")
    assert isinstance(caught.value, R1TrtError)


def test_manifest_needs_a_kind(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no kind"):
        write_manifest(tmp_path, {"text": "x"})


def test_a_mount_point_is_no_place_for_a_result(tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    assert is_mount_point(shared) and not is_mount_point(tmp_path)
    with pytest.raises(ArtifactError, match="mount point") as caught, atomic_directory(shared):
        pass
    assert caught.value.details["fix"].endswith("/dev/shm/result")
