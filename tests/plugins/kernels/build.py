"""The kernels compiled for the CPU, as they are or with a change, and the environments of sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.compile import PLUGINS, objects

from r1trt.plugin_checks.host_build import (
    SANITIZER_FLAGS,
    Overlay,
    host_compilation,
    host_kernel_library,
    host_layer,
    host_plugin_library,
    linked,
)
from r1trt.plugin_tools.toolchain import toolchain_from_machine

KERNELS = PLUGINS / "kernels"

SANITIZERS = tuple(SANITIZER_FLAGS)
# What must be loaded before Python, which is not instrumented itself.
SANITIZER_LIBRARIES = {
    "plain": (),
    "asan": ("libasan.so", "libubsan.so", "libstdc++.so"),
    "tsan": ("libtsan.so",),
}


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of a kernel's text: `new` instead of `old`, which the file holds exactly once.

    Attributes:
        file: The file, relative to the kernels' folder.
        old: What it says.
        new: What it is to say.
        sources: The sources to compile with the change, relative to the kernels' folder. The others stay as
            they are: the linker takes inline functions from the first object, and these come first.
    """

    file: str
    old: str
    new: str
    sources: tuple[str, ...]

    def changed_text(self) -> str:
        """The file's text with the change. Raises ValueError unless `old` is there exactly once."""
        text = (KERNELS / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file}: {text.count(self.old)} places read {self.old!r}, not 1")
        return text.replace(self.old, self.new)


def build_library(sanitizer: str = "plain", *, change: Change | None = None, hopper: bool = False) -> Path:
    """All kernels as one shared library for `ctypes`.

    Args:
        sanitizer: `plain`, `asan` (with UBSan) or `tsan`.
        change: A change of the sources to compile with.
        hopper: Whether calls go to those of Hopper's own kernels that the host layer runs.
    """
    with objects() as cached:
        if change is None:
            return host_kernel_library(cached, sanitizer, hopper=hopper)
        with _overlay(change) as overlay:
            return host_kernel_library(cached, sanitizer, overlay=overlay, hopper=hopper)


def build_plugin_library(change: Change) -> Path:
    """The plugins with changed kernels, as a library of another build would be."""
    with objects() as cached, _overlay(change) as overlay:
        return host_plugin_library(cached, overlay=overlay)


def build_program(source: Path, sanitizer: str, *flags: str) -> Path:
    """One source and the host layer as a program, or by the linker's flags as something else."""
    sources = [host_compilation(path, KERNELS, sanitizer) for path in (source, *host_layer())]
    with objects() as cached:
        return linked(cached, source.stem, sources, (*SANITIZER_FLAGS[sanitizer], *flags))


def sanitizer_environment(sanitizer: str, *, preload: bool = True) -> dict[str, str]:
    """The environment that runs what `build_library` or, without `preload`, `build_program` made."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if preload and SANITIZER_LIBRARIES[sanitizer]:
        environment["LD_PRELOAD"] = " ".join(map(_compiler_file, SANITIZER_LIBRARIES[sanitizer]))
    environment["ASAN_OPTIONS"] = "detect_leaks=0:detect_stack_use_after_return=0"
    environment["TSAN_OPTIONS"] = "exitcode=66:halt_on_error=1:report_signal_unsafe=0:report_bugs=1"
    return environment


@cache
def _compiler_file(name: str) -> str:
    command = [str(toolchain_from_machine().cxx), f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def _overlay(change: Change) -> Iterator[Overlay]:
    """A folder of the kernels with the change."""
    text = change.changed_text()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "kernels"
        shutil.copytree(KERNELS, folder)
        (folder / change.file).write_text(text)
        yield Overlay(folder=folder, sources=change.sources)
