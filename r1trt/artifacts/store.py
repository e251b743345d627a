"""Output directories: described by a manifest, complete or not there at all.

A result is written into a hidden sibling of its target, flushed to the disk, and renamed into place. Names
beside a target `T`: `.T.tmp-<pid>-<random>` is being written, `.T.old` is the previous result during the
swap, `.T.lock` is the lock of the one process that writes `T`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, get_args

from r1trt.errors import R1TrtError

Kind = Literal["export", "engine", "triton"]

MANIFEST_FILE = "manifest.json"
SCHEMA = 1
COPY_CHUNK_BYTES = 1 << 24
FICLONE = 0x40049409
# NOTES: "no room", "over quota" and "file too large for this file system or limit" are one matter to a user.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_CLONE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM)


class ArtifactError(R1TrtError):
    """An output directory cannot be written, or is not what it says."""


class DiskFullError(ArtifactError):
    """There is no room for the result."""


def read_manifest(directory: Path, kind: Kind | None = None) -> dict[str, Any]:
    """Reads the manifest of an artifact.

    Args:
        directory: An artifact's directory.
        kind: The kind it must be of; None accepts every kind.

    Returns:
        The manifest; its "schema" and "kind" are checked.

    Raises:
        ArtifactError: There is no manifest, it is malformed, or of another schema or kind.
    """
    path = directory / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(
            "directory is not an r1trt artifact",
            where=path,
            found=getattr(error, "strerror", None) or error,
            expected=f"a {kind or 'complete'} artifact's {MANIFEST_FILE}",
            fix="name the output directory of an earlier r1trt command",
        ) from error
    schema, found = (
        (manifest.get("schema"), manifest.get("kind")) if isinstance(manifest, dict) else (None, None)
    )
    if found not in get_args(Kind) or schema != SCHEMA:
        raise ArtifactError(
            "manifest is malformed or of another version",
            where=path,
            found=f"schema {schema!r}, kind {found!r}",
            expected=f"schema {SCHEMA}, kind {' | '.join(get_args(Kind))}",
            fix="make the artifact again with this version of r1trt",
        )
    if kind is not None and found != kind:
        raise ArtifactError("artifact is of another kind", where=directory, found=found, expected=kind)
    assert isinstance(manifest, dict)
    return manifest


def write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Writes an artifact's manifest.json, "schema" first.

    Args:
        directory: The artifact's directory.
        manifest: Its entries; "kind" is among them.

    Raises:
        ArtifactError: The kind is unknown.
    """
    if manifest.get("kind") not in get_args(Kind):
        expected = " | ".join(get_args(Kind))
        raise ArtifactError("manifest has no kind", found=manifest.get("kind"), expected=expected)
    text = json.dumps({"schema": SCHEMA, **manifest}, indent=2, ensure_ascii=False, allow_nan=False)
    (directory / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def sha256_of_file(path: Path) -> str:
    """Returns the SHA-256 of a file's contents, in hex; reads it in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_free_space(directory: Path, needed: int) -> None:
    """Refuses to start what cannot end.

    Args:
        directory: Where the result goes; it need not exist yet.
        needed: Bytes that will be written.

    Raises:
        DiskFullError: The file system has less room for this user.
    """
    free = shutil.disk_usage(_existing_parent(directory)).free
    if free < needed:
        raise _disk_full(directory, f"{needed} bytes")


def copy_file(source: Path, target: Path) -> None:
    """Copies a file's contents to the disk; shares the blocks where the file system can (reflink).

    Args:
        source: A file; links are followed.
        target: A path that does not exist yet.

    Raises:
        DiskFullError: There is no room for it.
        OSError: The source cannot be read, or the target exists already.
    """
    with source.open("rb") as reader, target.open("xb") as writer:
        size = os.fstat(reader.fileno()).st_size
        try:
            if not _clone(reader.fileno(), writer.fileno()):
                _copy_range(reader.fileno(), writer.fileno())
            os.fsync(writer.fileno())
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise _disk_full(target, f"{size} bytes", error) from error
        copied = os.fstat(writer.fileno()).st_size
    if copied != size:
        raise ArtifactError("file changed while it was copied", where=source, found=copied, expected=size)


@contextmanager
def atomic_directory(target: Path, *, replace: bool = True, kind: Kind | None = None) -> Iterator[Path]:
    """Makes a directory that is there either completely or not at all.

    Args:
        target: The directory to make; a previous artifact there stays until the new one is complete, and
            artifacts that lie inside the previous one are kept.
        replace: Whether a previous artifact may be replaced.
        kind: What the new artifact is: it may replace one of its own kind only. None replaces every kind.

    Yields:
        An empty directory beside `target`, to be filled. When the block ends without an exception it is
        flushed to the disk and takes `target`'s place; otherwise it is removed.

    Raises:
        ArtifactError: `target` holds something that r1trt did not make or an artifact of another kind, or
            exists and `replace` is False, or another process is writing it.
        DiskFullError: The disk filled up meanwhile.
    """
    target = Path(os.path.abspath(target))
    if not target.name:
        raise ArtifactError("not a usable output directory", where=target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target):
        _recover(target)
        _require_replaceable(target, replace, kind)
        work = target.with_name(f".{target.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            work.mkdir()
            yield work
            _flush_tree(work)
            _require_replaceable(target, replace, kind)
            _swap(work, target)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            written = _tree_bytes(work)
            shutil.rmtree(work, ignore_errors=True)
            raise _disk_full(target, f"more than {written} bytes, where it ended", error) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _existing_parent(path: Path) -> Path:
    path = Path(os.path.abspath(path))
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _disk_full(where: Path, needed: str, error: OSError | None = None) -> DiskFullError:
    free = shutil.disk_usage(_existing_parent(where)).free
    reason = f" ({os.strerror(error.errno or 0)})" if error is not None else ""
    return DiskFullError(
        "not enough room on the disk",
        where=where,
        found=f"{free} bytes free{reason}",
        expected=needed,
        fix="free some space, or choose an output directory on another disk",
    )


def _tree_bytes(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*"))


def _clone(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as error:
        if error.errno in _NO_CLONE:
            return False
        raise
    return True


def _copy_range(source: int, target: int) -> None:
    """Copies in the kernel, or through memory where that is not supported; both from the files' positions."""
    try:
        while os.copy_file_range(source, target, COPY_CHUNK_BYTES):
            pass
    except OSError as error:
        if error.errno not in _NO_CLONE:
            raise
    # NOTES: also the way on when copy_file_range stops early, which it does on some network file systems.
    while chunk := os.read(source, COPY_CHUNK_BYTES):
        view = memoryview(chunk)
        while view:
            view = view[os.write(target, view) :]


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Holds `.T.lock`. The kernel drops the lock when its process dies, however it dies."""
    path = target.with_name(f".{target.name}.lock")
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise _disk_full(target, "room for one more file", error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise ArtifactError(
                "another process is writing this directory",
                where=target,
                found=f"lock {path} is held",
                fix="wait for it to end, or choose another output directory",
            ) from error
        # NOTES: the file may have been removed by its last holder between open and flock.
        with suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                break
        os.close(descriptor)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
        os.close(descriptor)


def _recover(target: Path) -> None:
    """Clears up after a killed process: restores a result that was moved away, removes half-written ones."""
    old = target.with_name(f".{target.name}.old")
    if old.is_dir() and not os.path.lexists(target):
        old.rename(target)
    elif old.is_dir():
        _adopt_children(old, target)
        _remove_tree(old)
    prefix = f".{target.name}.tmp-"
    for stale in target.parent.iterdir():
        process = stale.name.removeprefix(prefix).partition("-")[0]
        if stale.name.startswith(prefix) and process.isdecimal() and not _is_alive(int(process)):
            _remove_tree(stale)


def _is_alive(process: int) -> bool:
    if process == os.getpid():
        # NOTES: this process holds the lock and has just begun, so its namesake was killed: in a container
        # every run may have the same id.
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _require_replaceable(target: Path, replace: bool, kind: Kind | None) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ArtifactError("output directory is not a directory", where=target, fix="choose another path")
    if not target.exists() or not any(target.iterdir()):
        return
    if not replace:
        raise ArtifactError(
            "output directory exists already",
            where=target,
            fix="remove it, ask for replacement, or choose another path",
        )
    try:
        found = read_manifest(target)["kind"]
    except ArtifactError as error:
        raise ArtifactError(
            "refusing to replace a directory that r1trt did not make",
            where=target,
            found=f"files, but no valid {MANIFEST_FILE}",
            expected="an empty or absent directory, or an earlier result",
            fix="choose another output directory",
        ) from error
    if kind is not None and found != kind:
        raise ArtifactError(
            "refusing to replace an artifact of another kind",
            where=target,
            found=found,
            expected=f"an empty or absent directory, or one of kind {kind}",
            fix="choose another output directory",
        )


def _flush_tree(directory: Path) -> None:
    """Writes a tree to the disk, files before the directories that name them."""
    for folder, _, names in os.walk(directory, topdown=False):
        for name in names:
            path = Path(folder, name)
            if stat.S_ISREG(path.lstat().st_mode):
                _fsync(path)
        _fsync(Path(folder))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(work: Path, target: Path) -> None:
    """Puts `work` in the place of `target`; a kill in between leaves what `_recover` puts right."""
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        target.rename(old)
    try:
        work.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    _fsync(target.parent)
    if old.exists():
        _adopt_children(old, target)
        _remove_tree(old)


def _adopt_children(old: Path, target: Path) -> None:
    """Moves artifacts that lie in the previous result, and what is being written there, into the new one.

    An export's directory holds the builds made of it; a new export must not take them along.
    """
    for child in sorted(old.iterdir()):
        is_artifact = child.is_dir() and (child / MANIFEST_FILE).is_file()
        if (is_artifact or child.name.startswith(".")) and not os.path.lexists(target / child.name):
            child.rename(target / child.name)
    _fsync(target)


def _remove_tree(path: Path) -> None:
    """Removes a tree, read-only folders in it included."""

    def retry(function: Callable[..., Any], name: str, _: object) -> None:
        os.chmod(os.path.dirname(name), stat.S_IRWXU)
        function(name)

    shutil.rmtree(path, onerror=retry)
