"""Copies, hashes, room on the disk, and what happens where there is none."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1trt.artifacts.atomic import atomic_directory
from r1trt.artifacts.disk import copy_file, replace_file, require_free_space, sha256_of_file
from r1trt.artifacts.errors import ArtifactError, DiskFullError
from r1trt.artifacts.manifest import read_manifest, write_manifest

REPOSITORY = Path(__file__).resolve().parents[2]


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
    with atomic_directory(target) as work:
        write_manifest(work, {"kind": "export", "text": "one"})
    with pytest.raises(DiskFullError) as caught, atomic_directory(target) as work:
        (work / "big").write_bytes(bytes(2 * file_size_limit))
    assert "bytes free" in caught.value.details["found"]
    assert "more than" in caught.value.details["expected"]
    assert read_manifest(target, "export")["text"] == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path: Path, file_size_limit: int) -> None:
    path = tmp_path / "file"
    replace_file(path, "one")
    with pytest.raises(DiskFullError):
        replace_file(path, bytes(2 * file_size_limit))
    assert path.read_text() == "one"
    (tmp_path / "link").hardlink_to(path)
    replace_file(path, "two")
    assert (path.read_text(), (tmp_path / "link").read_text()) == ("two", "one")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "link"]


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
    except DiskFullError as error:
        print(error)
    assert (target / 'data').read_text() == 'one'
    assert os.listdir(target.parent) == ['result'], os.listdir(target.parent)
"""


def test_full_disk(tmp_path: Path) -> None:
    """A real full file system, where this machine lets a process mount one in its own namespace."""
    (tmp_path / "source").write_bytes(os.urandom(8 << 20))
    (tmp_path / "disk").mkdir()
    (tmp_path / "fill.py").write_text(
        "import os, sys\nfrom pathlib import Path\nfrom r1trt.artifacts.atomic import atomic_directory\n"
        "from r1trt.artifacts.disk import copy_file\nfrom r1trt.artifacts.errors import DiskFullError\n"
        f"from r1trt.artifacts.manifest import write_manifest\ntarget = Path(sys.argv[1])\n{FILL_A_DISK}"
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
    modules = "sys, r1trt.artifacts, r1trt.checkpoint"
    code = f"import {modules}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
