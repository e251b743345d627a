"""A built plugin library: what it says about itself, and where one is looked for.

The library carries its description as text behind a marker, so that a lone file can be described without
being loaded into a process, which would register its plugins there.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1trt.artifacts.build import PLUGIN_LIBRARY_FILE
from r1trt.artifacts.disk import sha256_of_file
from r1trt.cache import cache_directory
from r1trt.errors import BuildError
from r1trt.files import LIBRARY_BYTES, open_file
from r1trt.plugin_tools.sources import hash_of_sources, source_directory

LIBRARY_FILE = PLUGIN_LIBRARY_FILE
LIBRARY_VARIABLE = "R1TRT_PLUGINS"
INFO_MARKER = b"R1TRT_PLUGINS_INFO:"
MAX_INFO_BYTES = 1 << 16
INFO_KEYS = frozenset({"key", "sources", "operators", "sms", "headers", "nvcc"})


@dataclass(frozen=True, kw_only=True)
class PluginLibrary:
    """A library of TensorRT plugins.

    Attributes:
        path: The file.
        sha256: Of its contents, in hex.
        key: Hash of everything that it was built from, in hex.
        sources: Hash of the plugins' sources that it was built from, in hex; empty if it is not known.
        operators: Operator types that it has plugins for.
        sms: Compute capabilities that it has code for, as in 90 for SM90.
        headers: Version of NVIDIA's headers that it was compiled with; "own" for the project's.
        nvcc: Version of the CUDA compiler.
        cached: Whether it was there already when it was asked for.
    """

    path: Path
    sha256: str
    key: str
    sources: str
    operators: tuple[str, ...]
    sms: tuple[int, ...]
    headers: str
    nvcc: str
    cached: bool = True

    def as_manifest(self) -> dict[str, Any]:
        """The library's entry in a manifest."""
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "operators": list(self.operators),
            "sms": list(self.sms),
            "headers": self.headers,
            "nvcc": self.nvcc,
        }


def library_from_path(path: Path, *, cached: bool = True) -> PluginLibrary:
    """Reads a library's description and hashes it; does not load it.

    Args:
        path: The library.
        cached: What the result says in `cached`.

    Raises:
        BuildError: The file cannot be read, or is not a plugin library of this project.
    """
    try:
        info = _info(path)
    except (OSError, ValueError) as error:
        raise BuildError(
            "Not a plugin library of r1trt.",
            where=path,
            found=getattr(error, "strerror", None) or error,
            expected=f"a {LIBRARY_FILE}",
            fix="r1trt plugins build --arch all",
        ) from error
    return PluginLibrary(
        path=path,
        sha256=sha256_of_file(path),
        key=str(info["key"]),
        sources=str(info["sources"]),
        operators=tuple(info["operators"]),
        sms=tuple(info["sms"]),
        headers=str(info["headers"]),
        nvcc=str(info["nvcc"]),
        cached=cached,
    )


def find_library(*sms: int) -> PluginLibrary | None:
    """Finds a library that was built before: the one that R1TRT_PLUGINS names, else the newest in the cache.

    Of the cache, only libraries that were built from the sources that are here count.

    Args:
        sms: Compute capabilities that it must have code for.

    Raises:
        BuildError: R1TRT_PLUGINS names something else, or a library without code for one of `sms`.
    """
    if named := os.environ.get(LIBRARY_VARIABLE):
        library = library_from_path(Path(named))
        require_code_for(library, sms, where=f"{LIBRARY_VARIABLE}={named}")
        return library
    fitting = (library for library in _current_libraries() if not _sms_without_code(library, sms))
    return next(fitting, None)


def require_code_for(library: PluginLibrary, sms: Sequence[int], *, where: object) -> None:
    """Refuses a library without code for a GPU.

    Args:
        library: The library.
        sms: Compute capabilities of the GPUs.
        where: What named the library.

    Raises:
        BuildError: It has none.
    """
    lacking = _sms_without_code(library, sms)
    if lacking:
        raise BuildError(
            "The plugin library has no code for the GPU.",
            where=where,
            found=", ".join(f"SM{built}" for built in library.sms),
            expected=", ".join(f"SM{sm}" for sm in lacking),
            fix="run `r1trt plugins build --arch all`",
        )


def library_cache() -> Path:
    """Where built libraries are kept."""
    return cache_directory() / "plugins"


def objects_directory() -> Path:
    """Where compiled sources are kept for other libraries of them."""
    return cache_directory() / "objects"


def _current_libraries() -> Iterator[PluginLibrary]:
    """The cache's libraries of the sources that are here, newest first; of any where there are no sources."""
    try:
        sources = hash_of_sources(source_directory())
    except BuildError:
        sources = None
    files = [
        path for path in library_cache().glob(f"*/{LIBRARY_FILE}") if not path.parent.name.startswith(".")
    ]
    for path in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        # An entry of another version of r1trt may be described in another way.
        with suppress(BuildError):
            library = library_from_path(path)
            if sources in (None, library.sources):
                yield library


def _sms_without_code(library: PluginLibrary, sms: Sequence[int]) -> list[int]:
    """Those of `sms` that none of a library's codes runs on.

    Code runs on its own SM and on newer ones of its generation; SM90's uses features that only SM90 has.
    """

    def runs(built: int, sm: int) -> bool:
        return sm == built or (built != 90 and sm // 10 == built // 10 and sm > built)

    return [sm for sm in sms if not any(runs(built, sm) for built in library.sms)]


def _info(path: Path) -> dict[str, Any]:
    with (
        open_file(path, limit=LIBRARY_BYTES, error=BuildError) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        start = content.find(INFO_MARKER)
        if start < 0:
            raise ValueError(f"no {INFO_MARKER.decode()} in it")
        start += len(INFO_MARKER)
        text = content[start : content.find(b"\0", start)]
    if len(text) > MAX_INFO_BYTES:
        raise ValueError(f"its description is longer than {MAX_INFO_BYTES} bytes")
    try:
        info = json.loads(text)
    except RecursionError as error:
        raise ValueError("its description is nested too deeply") from error
    if not isinstance(info, dict) or not info.keys() >= INFO_KEYS:
        raise ValueError("its description is incomplete")
    operators, sms = info["operators"], info["sms"]
    if not isinstance(operators, list) or not all(isinstance(name, str) for name in operators):
        raise ValueError("its operators are not a list of names")
    if not isinstance(sms, list) or not all(type(sm) is int and 0 < sm < 1000 for sm in sms):
        raise ValueError("its sms are not a list of compute capabilities, as in 90")
    return info
