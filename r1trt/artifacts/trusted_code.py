"""Code that comes with a directory runs only where this machine made it, or its user says that it may.

A build that was copied from elsewhere is data. Its plugin library is code, and so is an engine that carries
one: both are known here by their hashes, which are kept in the cache when a command of this machine makes or
takes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from r1trt.artifacts.build import BuildArtifact
from r1trt.artifacts.disk import sha256_of_file
from r1trt.artifacts.errors import ArtifactError
from r1trt.cache import cache_directory
from r1trt.errors import R1TrtError
from r1trt.files import DOCUMENT_BYTES, bytes_of_file

TRUST_OPTION = "--trust-plugins"
_HASH = re.compile(r"[0-9a-f]{64}")


class UntrustedCodeError(R1TrtError):
    """A directory's code would run, and nobody said that it may."""


def record_trusted_code(sha256: str) -> None:
    """Remembers code that a command of this machine made, or that its user named."""
    if sha256 in _recorded():
        return
    path = _record()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="ascii") as file:
        file.write(f"{sha256}\n")


def require_trusted_code(path: Path, *, trusted: bool) -> None:
    """Refuses a file of code that this machine does not know.

    Args:
        path: A plugin library, or an engine that carries one.
        trusted: The user says that it may run.

    Raises:
        UntrustedCodeError: It is unknown here; the message says what would run.
    """
    if trusted or not path.is_file():  # what is missing is another error's
        return
    sha256 = sha256_of_file(path)
    if sha256 in _recorded():
        return
    raise UntrustedCodeError(
        "This directory brings code that would run here, and this machine did not make it.",
        where=path,
        found=f"SHA-256 {sha256}",
        expected="a file that was made on this machine",
        fix=f"if you trust where it comes from, add {TRUST_OPTION}; or build plugins here with "
        "`r1trt plugins build` and name them with --plugin-library",
    )


def require_trusted_build(build: BuildArtifact, *, trusted: bool) -> None:
    """Refuses a build whose engine runs code that this machine does not know.

    Raises:
        UntrustedCodeError: It has such code.
    """
    for path in _code_of(build):
        require_trusted_code(path, trusted=trusted)


def _code_of(build: BuildArtifact) -> Iterator[Path]:
    yield from build.plugin_libraries
    if build.manifest.embeds_plugins:
        yield from build.engines.values()


def _record() -> Path:
    return cache_directory() / "trusted-code"


def _recorded() -> set[str]:
    if not _record().exists():
        return set()
    content = bytes_of_file(_record(), limit=DOCUMENT_BYTES, error=ArtifactError, fix="remove this file")
    words = content.decode("ascii", errors="replace").split()
    return {word for word in words if _HASH.fullmatch(word)}
