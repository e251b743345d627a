"""Output directories: described by a manifest, complete or not there at all.

A result is written into a hidden sibling of its target, flushed to the disk, and renamed into place. Names
beside a target `T`: `.T.tmp-<pid>-<random>` is being written, `.T.old` is the previous result during the
swap, `.T.lock` is the lock of the one process that writes `T`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from r1trt.artifacts.disk import FULL, disk_full, is_mount_point
from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.lock import locked_for_writing
from r1trt.artifacts.manifest import MANIFEST_FILE, Kind, read_manifest
from r1trt.files import require_unicode_path
from r1trt.lifetime.ending import at_ending, removed_at_ending


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
        ArtifactError: `target` is a mount point, holds something that r1trt did not make or an artifact
            of another kind, or exists and `replace` is False, or another process is writing it.
        DiskFullError: The disk filled up meanwhile.
    """
    target = Path(os.path.abspath(target))
    require_unicode_path(target, ArtifactError)
    if not target.name:
        raise ArtifactError("not a usable output directory", where=target)
    _require_no_mount_point(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked_for_writing(target):
        _recover(target)
        _require_replaceable(target, replace, kind)
        work = target.with_name(f".{target.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            # A signal's end does what the next process would do for one that was killed.
            with at_ending(partial(_recover, target)), removed_at_ending(work):
                work.mkdir()
                yield work
                _flush_tree(work)
                _require_replaceable(target, replace, kind)
                _swap(work, target)
        except OSError as error:
            if error.errno not in FULL:
                raise
            written = _tree_bytes(work)
            shutil.rmtree(work, ignore_errors=True)
            raise disk_full(target, f"more than {written} bytes, where it ended", error) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)


def require_new_directory(target: Path) -> None:
    """Refuses at once what `atomic_directory` without replacement would refuse in the end.

    Raises:
        ArtifactError: `target` is there, and is no empty directory.
    """
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise ArtifactError(
            "The output is there already.",
            where=target,
            expected="an absent or empty directory",
            fix="remove it, or choose another one with -o",
        )


def _require_no_mount_point(target: Path) -> None:
    """Raises ArtifactError for a container's volume and the like, which nothing can be renamed to."""
    if is_mount_point(target):
        raise ArtifactError(
            "The output directory is a mount point; a result is made beside its place and renamed into it.",
            where=target,
            fix=f"choose a directory inside it, as {target / 'result'}",
        )


def _tree_bytes(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*"))


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
        is_artifact = child.is_dir() and (child / MANIFEST_FILE).is_file() and not _is_part(child)
        if (is_artifact or child.name.startswith(".")) and not os.path.lexists(target / child.name):
            child.rename(target / child.name)
    _fsync(target)


def _is_part(directory: Path) -> bool:
    """Whether an artifact is a part of the one around it, and goes with it."""
    try:
        return read_manifest(directory).get("part") is not None
    except ArtifactError:
        return False


def _remove_tree(path: Path) -> None:
    """Removes a tree, read-only folders in it included."""

    def retry(function: Callable[..., Any], name: str, _: object) -> None:
        os.chmod(os.path.dirname(name), stat.S_IRWXU)
        function(name)

    shutil.rmtree(path, onerror=retry)
