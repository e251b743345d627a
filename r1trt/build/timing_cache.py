"""Timings of TensorRT's kernels, kept from build to build: one file, locked and merged.

The builder times each kernel on the GPU. With what earlier builds measured a second build of a model takes a
fraction of the time, and chooses the same kernels. TensorRT-RTX times nothing.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from r1trt.arch import Backend
from r1trt.artifacts.disk import replace_file
from r1trt.build.builder_api import BUILDER_APIS
from r1trt.cache import cache_directory
from r1trt.errors import BuildError
from r1trt.files import TIMING_CACHE_BYTES, bytes_of_file

_FIX = "name another file with --timing-cache"


def timing_cache_file(backend: Backend, sms: Sequence[int], named: Path | None = None) -> Path | None:
    """The file that a builder's timings are kept in.

    Args:
        backend: The builder.
        sms: Compute capabilities of the GPUs; timings of one are of no use to another.
        named: A file that the user names; None takes one in the cache directory, for the builder's version.

    Returns:
        The file; None for a builder that times nothing, or where none is named and none can be kept.
    """
    if backend not in BUILDER_APIS or BUILDER_APIS[backend].names_target:
        return None
    if named is not None:
        return named.resolve()
    package = BUILDER_APIS[backend].library.package
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
    name = "-".join([package, version, *(f"sm{sm}" for sm in sms)])
    directory = cache_directory() / "timing"
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{name}.cache" if os.access(directory, os.W_OK) else None


def load_timing_cache(config: Any, path: Path, *, named: bool = False) -> Any:
    """Give a builder the timings of earlier builds, or an empty cache to write its own into.

    Args:
        config: An IBuilderConfig.
        path: The file; it need not exist yet, its directory is made.
        named: Whether the user named the file: one that holds something else is then refused, and otherwise
            replaced.

    Returns:
        The ITimingCache, which has to outlive the build.

    Raises:
        BuildError: The file cannot be read, could not be written at the end of the build, or is named and
            not one of this builder's timing caches.
    """
    try:
        with _locked(path):
            data = _content_of(path)
    except OSError as error:
        raise BuildError(
            "The timing cache cannot be used.",
            where=path,
            found=error.strerror,
            fix=_FIX,
        ) from error
    for content in (data, b""):
        cache = _cache_of(config, content)
        # Refused is what another version or another kind of GPU wrote; the builder says so.
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
        if named and content:
            raise _something_else(path, content)
    return None


def save_timing_cache(config: Any, path: Path, *, named: bool = False) -> None:
    """Add what a build measured to the file; what others wrote meanwhile stays.

    Args:
        config: The IBuilderConfig of the build that has ended.
        path: The file.
        named: As in `load_timing_cache`.

    Raises:
        OSError: The file cannot be written.
        BuildError: It is named, and something else was put there meanwhile.
    """
    cache = config.get_timing_cache()
    with _locked(path):
        content = _content_of(path)
        earlier = _cache_of(config, content)
        combined = earlier is not None and cache.combine(earlier, ignore_mismatch=False)
        if named and content and not combined:
            raise _something_else(path, content)
        replace_file(path, bytes(cache.serialize()))


def _content_of(path: Path) -> bytes:
    if not path.exists():
        return b""
    return bytes_of_file(path, limit=TIMING_CACHE_BYTES, error=BuildError, fix=_FIX)


def _cache_of(config: Any, content: bytes) -> Any:
    """The ITimingCache of a file's content; None where the library reads nothing from it."""
    cache = config.create_timing_cache(content)
    if cache is None or not content:
        return cache
    # NOTES: a library may take any bytes and answer with an empty cache.
    kept, empty = (bytes(each.serialize()) for each in (cache, config.create_timing_cache(b"")))
    return None if kept == empty != content else cache


def _something_else(path: Path, content: bytes) -> BuildError:
    return BuildError(
        "The named file is not a timing cache of this builder and GPU.",
        where=path,
        found=f"{len(content)} bytes that it does not accept",
        expected="no file, an empty one, or what an earlier build wrote there",
        fix="name another file with --timing-cache, or remove this one if it is not needed",
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for the file's lock. The lock file stays: another process may be about to open it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
