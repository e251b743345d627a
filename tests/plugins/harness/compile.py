"""The harness, the plugins for the CPU and the probes, in the tests' own cache of objects."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from r1trt.plugin_checks import host_build
from r1trt.plugin_checks.host_build import OWN_HEADERS, PLUGIN_FLAGS, cxx_compilation
from r1trt.plugin_tools.compilers import Compilers
from r1trt.plugin_tools.objects import ObjectCache
from r1trt.plugin_tools.sources import Headers, headers_from_machine

REPOSITORY = Path(__file__).resolve().parents[3]
PLUGINS = REPOSITORY / "plugins"
CACHE = REPOSITORY / "build" / "objects"
DOWNLOADS = REPOSITORY / "build" / "plugin-tests"
SANITIZER_VARIABLE = "R1TRT_TEST_SANITIZER"


@contextmanager
def objects() -> Iterator[ObjectCache]:
    """The cache of all tests and of all their workers."""
    with Compilers(2) as compilers:
        yield ObjectCache(CACHE, compilers)


def _headers(directory: Path | None) -> Headers:
    return OWN_HEADERS if directory is None else headers_from_machine(directory)


def harness_library(headers: Path | None = None) -> Path:
    """The harness, with the project's own declarations or NVIDIA's headers."""
    with objects() as cache:
        return host_build.harness_library(cache, headers=_headers(headers))


def host_plugin_library(headers: Path | None = None) -> Path:
    """The plugins and their kernels, compiled for the CPU; SANITIZER_VARIABLE adds sanitizers."""
    with objects() as cache:
        sanitizer = os.environ.get(SANITIZER_VARIABLE, "plain")
        return host_build.host_plugin_library(cache, sanitizer, headers=_headers(headers))


def probe_output(source: Path, headers: Path | None, flags: Sequence[str] = ()) -> str:
    """What a program prints."""
    options = (*PLUGIN_FLAGS, *_headers(headers).flags, *flags)
    with objects() as cache:
        program = host_build.linked(cache, source.stem, [cxx_compilation(source, options)], ())
    return subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
