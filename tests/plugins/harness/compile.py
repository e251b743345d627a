"""Compiles the harness, the probes and the plugins for the CPU, each once for its inputs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

from r1trt.plugin_tools.sources import compiled_files
from r1trt.plugin_tools.toolchain import Toolchain, toolchain_from_machine

REPOSITORY = Path(__file__).resolve().parents[3]
PLUGINS = REPOSITORY / "plugins"
HARNESS = Path(__file__).parent
HOST = HARNESS.parent / "host"
CACHE = REPOSITORY / "build" / "plugin-tests"

FLAGS = ("-std=c++17", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")
# CUDA sources as C++ for the host layer: its idioms are not the compiler's.
HOST_KERNEL_FLAGS = (
    "-std=c++17", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=off",
    "-DR1TRT_SIMT_HOST", "-w",
)  # fmt: skip
SANITIZER_VARIABLE = "R1TRT_TEST_SANITIZER"
SANITIZER_FLAGS = {
    "plain": (),
    "asan": ("-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=all"),
}
HEADER_SUFFIXES = {".h", ".cuh", ".inl"}


def official_flags(headers: Path | None) -> list[str]:
    """Selects NVIDIA's headers in place of the project's own."""
    return [] if headers is None else ["-DR1TRT_OFFICIAL_HEADERS", "-isystem", str(headers)]


def harness_library(headers: Path | None = None) -> Path:
    """The harness, which plays TensorRT for a plugin library."""
    sources = [HARNESS / "harness.cpp", HARNESS / "fake_tensorrt.cpp", HARNESS / "exports.cpp"]
    flags = [*FLAGS, *official_flags(headers), f"-I{PLUGINS}"]
    return _linked("harness", [_object(source, flags) for source in sources], ["-shared", "-ldl"])


def host_plugin_library(headers: Path | None = None) -> Path:
    """The plugins and their kernels, compiled for the CPU; SANITIZER_VARIABLE adds sanitizers."""
    checks = SANITIZER_FLAGS[os.environ.get(SANITIZER_VARIABLE, "plain")]
    plugin_flags = [*FLAGS, *checks, *official_flags(headers)]
    kernel_flags = [*HOST_KERNEL_FLAGS, *checks, f"-I{HOST}", f"-I{PLUGINS / 'kernels'}"]
    sources = [*compiled_files(PLUGINS), *sorted(HOST.glob("simt*.cpp")), HARNESS / "host_runtime.cpp"]
    objects = []
    for source in sources:
        is_plugin = source.suffix == ".cpp" and (PLUGINS in source.parents or source.parent == HARNESS)
        objects.append(_object(source, plugin_flags if is_plugin else kernel_flags))
    script = f"-Wl,--version-script={PLUGINS / 'exports.map'}"
    return _linked("plugins-host", objects, ["-shared", *checks, script, "-Wl,-z,nodelete", "-ldl"])


def probe_output(source: Path, headers: Path | None, flags: Sequence[str] = ()) -> str:
    """What a program prints."""
    options = [*FLAGS, *official_flags(headers), *flags, f"-I{PLUGINS}"]
    program = _linked(source.stem, [_object(source, options)], [])
    return subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout


def _toolchain() -> Toolchain:
    return toolchain_from_machine()


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _headers_text(source: Path) -> Iterable[str]:
    """The headers that a source may include: kernels and the host layer know nothing of the plugins."""
    kernels = PLUGINS / "kernels"
    alone = kernels in source.parents or HOST in source.parents
    for folder in (kernels, HOST) if alone else (PLUGINS, HARNESS):
        for path in sorted(folder.rglob("*")):
            if path.suffix in HEADER_SUFFIXES and (alone or path.suffix == ".h"):
                yield path.read_text()


@contextmanager
def _locked() -> Iterable[None]:
    """Test workers compile one after another."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _object(source: Path, flags: Sequence[str]) -> Path:
    chain = _toolchain()
    key = _digest([chain.cxx_version, *flags, source.read_text(), *_headers_text(source)])
    target = CACHE / f"{source.stem}-{key}.o"
    with _locked():
        if not target.exists():
            partial = target.with_suffix(".partial")
            language = ["-x", "c++"] if source.suffix == ".cu" else []
            include = ["-isystem", str(chain.include)]
            _run([str(chain.cxx), *flags, *include, *language, "-c", str(source), "-o", str(partial)])
            partial.replace(target)
    return target


def _linked(name: str, objects: Sequence[Path], flags: Sequence[str]) -> Path:
    target = CACHE / f"{name}-{_digest([*flags, *map(str, objects)])}"
    with _locked():
        if not target.exists():
            partial = target.with_suffix(".partial")
            _run([str(_toolchain().cxx), *map(str, objects), *flags, "-o", str(partial)])
            partial.replace(target)
    return target


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stderr[-8000:]}"
