"""The plugins' sources, and the TensorRT headers that they are compiled with."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from r1trt.errors import BuildError

SOURCE_VARIABLE = "R1TRT_PLUGINS_SOURCE"
PACKAGED_SOURCES = Path(__file__).resolve().parents[1] / "plugin_sources"
HEADER = "NvInferRuntime.h"
VERSION_HEADER = "NvInferVersion.h"
HEADER_VARIABLES = ("TENSORRT_INCLUDE_DIR", "TENSORRT_ROOT", "TENSORRT_HOME")
HEADER_FOLDERS = (
    "/usr/include/x86_64-linux-gnu",
    "/usr/include/aarch64-linux-gnu",
    "/usr/local/tensorrt/include",
)
SUPPORTED_MAJORS = (10, 11)


@dataclass(frozen=True, kw_only=True)
class Headers:
    """TensorRT's headers.

    Attributes:
        directory: Their folder; None for the project's own declarations.
        version: As in "11.1.0"; "own" for the project's.
    """

    directory: Path | None
    version: str

    @property
    def flags(self) -> list[str]:
        """Compiler flags that select them."""
        if self.directory is None:
            return []
        major = self.version.partition(".")[0]
        return [
            "-DR1TRT_OFFICIAL_HEADERS",
            f"-DR1TRT_TENSORRT_MAJOR={major}",
            "-isystem",
            str(self.directory),
        ]


def source_directory() -> Path:
    """The plugins' sources: what R1TRT_PLUGINS_SOURCE names, else the package's own.

    In a checkout the package's folder is a link to `plugins/`; in a wheel it holds the files.

    Raises:
        BuildError: There are no sources there.
    """
    named = os.environ.get(SOURCE_VARIABLE)
    directory = Path(named) if named else PACKAGED_SOURCES.resolve()
    if not (directory / "register.cpp").is_file():
        raise BuildError(
            "The plugins' sources are not here.",
            where=directory,
            fix=f"install r1trt again, or set {SOURCE_VARIABLE} to the folder plugins/ of a checkout",
        )
    return directory


def compiled_files(directory: Path) -> tuple[Path, ...]:
    """Every C++ and CUDA source that belongs to the library, sorted."""
    return tuple(sorted([*directory.rglob("*.cpp"), *directory.rglob("*.cu")]))


def input_files(directory: Path) -> tuple[Path, ...]:
    """Every file that a build reads, sorted."""
    suffixes = {".cpp", ".cu", ".h", ".cuh", ".inl", ".map", ".options"}
    return tuple(sorted(path for path in directory.rglob("*") if path.suffix in suffixes and path.is_file()))


def hash_of_sources(directory: Path) -> str:
    """SHA-256, in hex, of every file that a build reads, names included."""
    digest = hashlib.sha256()
    for path in input_files(directory):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(directory)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def headers_from_machine(directory: Path | None = None) -> Headers:
    """Finds NVIDIA's headers; the project's own declarations take their place where there are none.

    Args:
        directory: A folder that must have them; None looks in the usual places.

    Raises:
        BuildError: `directory` has none, or they are of a TensorRT that the plugins do not know.
    """
    if directory is not None:
        return _headers_in(directory)
    named = [Path(os.environ[name]) for name in HEADER_VARIABLES if os.environ.get(name)]
    for folder in [*named, *(path / "include" for path in named), *map(Path, HEADER_FOLDERS)]:
        if (folder / HEADER).is_file():
            return _headers_in(folder)
    return Headers(directory=None, version="own")


def _headers_in(directory: Path) -> Headers:
    try:
        text = (directory / VERSION_HEADER).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BuildError("There are no TensorRT headers.", where=directory, found=error.strerror) from error
    version = []
    for part in ("MAJOR", "MINOR", "PATCH"):
        # NOTES: some versions define NV_TENSORRT_MAJOR by way of TRT_MAJOR_ENTERPRISE.
        match = re.search(rf"#define (?:NV_TENSORRT_{part}|TRT_{part}_ENTERPRISE) (\d+)", text)
        version.append(match[1] if match else "?")
    if version[0] not in map(str, SUPPORTED_MAJORS) or not (directory / HEADER).is_file():
        raise BuildError(
            "Not the headers of a TensorRT that the plugins know.",
            where=directory,
            found=".".join(version),
            expected=f"TensorRT {' or '.join(map(str, SUPPORTED_MAJORS))}",
            fix="name other headers, or none to use the project's own",
        )
    return Headers(directory=directory, version=".".join(version))
