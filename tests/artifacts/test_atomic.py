from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1trt.artifacts.store import (
    ArtifactError,
    DiskFullError,
    atomic_directory,
    copy_file,
    read_manifest,
    require_free_space,
    sha256_of_file,
    write_manifest,
)
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
        "import os, sys, time\nfrom pathlib import Path\nimport r1trt.artifacts.store as artifacts\n"
        "from r1trt.artifacts.store import *\ntarget = Path(sys.argv[1])\n"
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


def test_hash(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 1_000_000)
    assert sha256_of_file(tmp_path / "file") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


@pytest.mark.parametrize("size", [0, 1, (1 << 24) + 5])
def test_copy(tmp_path: Path, size: int) -> None:
    (tmp_path / "source").write_bytes(os.urandom(size))
    (tmp_path / "link").symlink_to("source")
    copy_file(tmp_path / "link", tmp_path / "copy")
    assert not (tmp_path / "copy").is_symlink()
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "source").read_bytes()
    with pytest.raises(FileExistsError):
        copy_file(tmp_path / "source", tmp_path / "copy")


def test_copy_from_another_file_system(tmp_path: Path) -> None:
    # /proc gives no size in advance and no copy_file_range: the streamed way has to do it, and notice.
    with pytest.raises(ArtifactError, match="changed while it was copied"):
        copy_file(Path("/proc/self/status"), tmp_path / "copy")
    assert (tmp_path / "copy").read_text().startswith("Name:")


def test_free_space(tmp_path: Path) -> None:
    require_free_space(tmp_path / "not" / "there", 1)
    with pytest.raises(DiskFullError) as caught:
        require_free_space(tmp_path, 1 << 60)
    assert "bytes free" in caught.value.details["found"]
    assert caught.value.details["expected"] == f"{1 << 60} bytes"


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    """Makes writes beyond 1 MiB a file fail in this process, as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    yield 1 << 20
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


def test_refused_write_is_explained(tmp_path: Path, file_size_limit: int) -> None:
    target = tmp_path / "result"
    make(target, "one")
    with pytest.raises(DiskFullError) as caught, atomic_directory(target) as work:
        (work / "big").write_bytes(bytes(2 * file_size_limit))
    assert "bytes free" in caught.value.details["found"]
    assert "more than" in caught.value.details["expected"]
    assert content(target) == "one"
    assert names(tmp_path) == ["result"]


def test_refused_copy_is_explained(tmp_path: Path, file_size_limit: int) -> None:
    for part in ("a", "b"):
        (tmp_path / part).write_bytes(bytes(file_size_limit))
    big = tmp_path / "big"
    with big.open("xb") as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        file.truncate(3 * file_size_limit)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, resource.RLIM_INFINITY))
    with pytest.raises(DiskFullError) as caught:
        copy_file(big, tmp_path / "copy")
    assert str(3 * file_size_limit) in caught.value.details["expected"]


FILL_A_DISK = """
import subprocess
mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', str(target.parent)])
if mounted.returncode:
    sys.exit(77)
with atomic_directory(target) as work:
    (work / 'data').write_text('one')
    write_manifest(work, {'kind': 'export'})
source = Path(sys.argv[2])
def write_big(work):
    (work / 'big').write_bytes(bytes(8 << 20))
def copy_big(work):
    copy_file(source, work / 'big')
for write in (write_big, copy_big):
    try:
        with atomic_directory(target) as work:
            write(work)
        sys.exit('no error')
    except artifacts.DiskFullError as error:
        print(error)
    assert (target / 'data').read_text() == 'one'
    assert os.listdir(target.parent) == ['result'], os.listdir(target.parent)
"""


def test_full_disk(tmp_path: Path) -> None:
    """A real full file system, where this machine lets a process mount one in its own namespace."""
    (tmp_path / "source").write_bytes(os.urandom(8 << 20))
    (tmp_path / "disk").mkdir()
    (tmp_path / "fill.py").write_text(
        "import os, sys\nfrom pathlib import Path\nimport r1trt.artifacts.store as artifacts\n"
        f"from r1trt.artifacts.store import *\ntarget = Path(sys.argv[1])\n{FILL_A_DISK}"
    )
    arguments = [tmp_path / "fill.py", tmp_path / "disk" / "result", tmp_path / "source"]
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", sys.executable, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        # Not everyone may mount; the file-size limit above takes the same way through the code.
        return
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("not enough room on the disk") == 2
    assert done.stdout.count("bytes free (No space left on device)") == 2


def test_import_is_light() -> None:
    heavy = ("torch", "onnx", "onnxruntime", "tensorrt_rtx", "matplotlib")
    modules = "sys, r1trt.artifacts.store, r1trt.checkpoint"
    code = f"import {modules}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
