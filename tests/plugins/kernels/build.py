"""Compiles the kernels' own sources for the CPU, by the SIMT host layer; each object once for its inputs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from r1trt.plugin_tools.toolchain import Toolchain, toolchain_from_machine

REPOSITORY = Path(__file__).resolve().parents[3]
KERNELS = REPOSITORY / "plugins" / "kernels"
HOST = REPOSITORY / "tests" / "plugins" / "host"
SHIM = Path(__file__).parent / "kernel_shim.cpp"
CACHE = REPOSITORY / "build" / "simt"
UNUSED_AFTER_S = 3 * 24 * 3600

SANITIZERS = ("plain", "asan", "tsan")
SANITIZER_FLAGS = {
    "plain": (),
    "asan": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "tsan": ("-fsanitize=thread",),
}
# What must be loaded before Python, which is not instrumented itself.
SANITIZER_LIBRARIES = {
    "plain": (),
    "asan": ("libasan.so", "libubsan.so", "libstdc++.so"),
    "tsan": ("libtsan.so",),
}
FLAGS = (
    "-std=c++17", "-O2", "-g1", "-fPIC", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-tsan",
    "-fno-strict-aliasing", "-ffp-contract=off", "-fvisibility=hidden", "-DR1TRT_SIMT_HOST",
)  # fmt: skip
HEADER_SUFFIXES = {".h", ".cuh"}


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


def build_library(sanitizer: str = "plain", *, change: Change | None = None) -> Path:
    """All kernels as one shared library for `ctypes`.

    Args:
        sanitizer: `plain`, `asan` (with UBSan) or `tsan`.
        change: A change of the sources to compile with.
    """
    changed = {KERNELS / name for name in (change.sources if change else ())}
    kernels = [path for path in sorted(KERNELS.glob("*/*.cu")) if path not in changed]
    jobs = [(path, KERNELS) for path in (*kernels, *sorted(HOST.glob("simt*.cpp")), SHIM)]
    if change is not None:
        overlay = _overlay(change)
        jobs = [*((overlay / name, overlay) for name in change.sources), *jobs]
    return _linked("lib", _objects(jobs, sanitizer), ("-shared", *SANITIZER_FLAGS[sanitizer]))


def build_program(source: Path, sanitizer: str) -> Path:
    """One source with a `main` and the host layer as a program."""
    jobs = [(path, KERNELS) for path in (source, *sorted(HOST.glob("simt*.cpp")))]
    return _linked(source.stem, _objects(jobs, sanitizer), SANITIZER_FLAGS[sanitizer])


def sanitizer_environment(sanitizer: str, *, preload: bool = True) -> dict[str, str]:
    """The environment that runs what `build_library` or, without `preload`, `build_program` made."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if preload and SANITIZER_LIBRARIES[sanitizer]:
        environment["LD_PRELOAD"] = " ".join(map(_compiler_file, SANITIZER_LIBRARIES[sanitizer]))
    environment["ASAN_OPTIONS"] = "detect_leaks=0:detect_stack_use_after_return=0"
    environment["TSAN_OPTIONS"] = "exitcode=66:halt_on_error=1:report_signal_unsafe=0:report_bugs=1"
    return environment


@cache
def _toolchain() -> Toolchain:
    _forget_unused()
    return toolchain_from_machine()


@cache
def _compiler_file(name: str) -> str:
    command = [str(_toolchain().cxx), f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _forget_unused() -> None:
    """Removes what no test has asked for in days: every change of a source leaves an object behind."""
    for path in CACHE.glob("*"):
        if path.suffix == ".lock" or path.stat().st_mtime > time.time() - UNUSED_AFTER_S:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _overlay(change: Change) -> Path:
    """A folder of the kernels with the change; named by what it holds."""
    text = change.changed_text()
    files = {path.relative_to(KERNELS): path.read_text() for path in sorted(KERNELS.glob("*/*"))}
    files[Path(change.file)] = text
    target = CACHE / f"overlay-{_digest(*map(str, files), *files.values())}" / "kernels"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            for name, content in files.items():
                path = Path(temporary) / "overlay" / "kernels" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
            # Another worker's copy has the same text: which of them stays does not matter.
            shutil.copytree(Path(temporary) / "overlay", target.parent, dirs_exist_ok=True)
    return target


def _objects(jobs: list[tuple[Path, Path]], sanitizer: str) -> list[Path]:
    """Compiles sources, each against a folder of kernels, two at a time."""
    flags = (*FLAGS, *SANITIZER_FLAGS[sanitizer])
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(lambda job: _object(job[0], flags, job[1]), jobs))


def _included(source: Path, kernels: Path) -> Iterator[Path]:
    """Headers that a source may include: an operator's sources know nothing of another operator."""
    folders = [HOST, *(path for path in sorted(kernels.iterdir()) if path.is_dir())]
    if source.is_relative_to(kernels):
        folders = [HOST, kernels / "common", source.parent]
    for folder in folders:
        yield from sorted(path for path in folder.iterdir() if path.suffix in HEADER_SUFFIXES)


def _object(source: Path, flags: tuple[str, ...], kernels: Path) -> Path:
    chain = _toolchain()
    texts = [path.read_text() for path in (source, *_included(source, kernels))]
    target = CACHE / f"{source.stem}-{_digest(chain.cxx_version, *flags, *texts)}.o"
    include = ("-isystem", str(chain.include), f"-I{HOST}", f"-I{kernels}")
    return _made(target, lambda to: (*flags, *include, "-x", "c++", "-c", str(source), "-o", str(to)))


def _linked(name: str, objects: list[Path], flags: tuple[str, ...]) -> Path:
    target = CACHE / f"{name}-{_digest(*flags, *map(str, objects))}.so"
    return _made(target, lambda to: (*flags, *map(str, objects), "-o", str(to)))


def _made(target: Path, arguments: Callable[[Path], tuple[str, ...]]) -> Path:
    """Runs the compiler unless the file is there; another worker that wants the same file waits."""
    with _locked(target):
        if target.exists():
            target.touch()
            return target
        partial = target.with_suffix(".partial")
        command = [str(_toolchain().cxx), *arguments(partial)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{result.stderr[-8000:]}")
        partial.replace(target)
    return target


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{target.stem[-2:]}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
