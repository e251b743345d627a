"""Builds the plugin library with nvcc, once for each set of inputs."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from r1trt.arch import ARCHITECTURES
from r1trt.artifacts.store import copy_file, require_free_space, sha256_of_file
from r1trt.errors import BuildError, ConfigError
from r1trt.ops.registry import OPERATORS
from r1trt.plugin_tools.compilers import Compilers
from r1trt.plugin_tools.library import LIBRARY_FILE, PluginLibrary, library_cache, library_from_path
from r1trt.plugin_tools.sources import (
    Headers,
    compiled_files,
    cutlass_version,
    hash_of_sources,
    headers_from_machine,
    source_directory,
)
from r1trt.plugin_tools.toolchain import Toolchain, toolchain_from_machine

ALL = "all"
LOG_FILE = "build.log"
HASH_FILE = "sha256"
SCHEMA = 1
BUILD_BYTES = 1 << 28
# What is compiled for each SM. Code for SM100 and SM120 also runs on SM103 and SM121; Hopper's own
# instructions need the `a`, and code with it runs on SM90 alone.
TARGETS: Mapping[int, str] = MappingProxyType(
    {80: "80", 86: "86", 89: "89", 90: "90a", 100: "100", 120: "120"}
)
CXX_FLAGS = ("-std=c++17", "-O2", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")
# NOTES: nodelete, because creators that a registry holds must outlive a dlclose.
LINK_FLAGS = (
    "-shared",
    "-Wl,-z,nodelete",
    "-Wl,-z,relro",
    "-Wl,-z,now",
    "-Wl,--no-undefined",
    "-Wl,-Bsymbolic",
)
SYSTEM_LIBRARIES = ("-lpthread", "-ldl", "-lrt")
# The one source that CUTLASS is for, and what it is compiled with in addition.
CUTLASS_SOURCE = "cutlass_gemm.cu"
CUTLASS_SM = 90
CUTLASS_FLAGS = ("-DR1TRT_WITH_CUTLASS", "--expt-relaxed-constexpr")
# ptxas reports, as mere information, that it gave up overlapping Hopper's matrix products.
SERIALIZED_WGMMA = "C7510"

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class PluginBuildConfig:
    """What to build.

    Attributes:
        arch: An `--arch` with a GPU, or "all" for a library that holds code for every one.
        output: Folder that the library is copied to; None leaves it in the cache.
        headers: Folder of NVIDIA's TensorRT headers; None looks for them and does without if there are none.
        cutlass: Folder of CUTLASS's headers, for its FP8 product on SM90; None does without.
        jobs: Compilers that run at the same time.
    """

    arch: str = ALL
    output: Path | None = None
    headers: Path | None = None
    cutlass: Path | None = None
    jobs: int = 2

    def __post_init__(self) -> None:
        if self.arch not in (*arch_names(), ALL):
            raise ConfigError(
                "The plugins are not built for this architecture.",
                where="arch",
                found=self.arch,
                expected=", ".join([*arch_names(), ALL]),
            )
        if self.jobs < 1:
            raise ConfigError(
                "At least one compiler has to run.", where="jobs", found=self.jobs, expected=">= 1"
            )

    @property
    def sms(self) -> tuple[int, ...]:
        """Compute capabilities that code is compiled for."""
        if self.arch == ALL:
            return tuple(TARGETS)
        return tuple(sm for sm in ARCHITECTURES[self.arch].sms if sm in TARGETS)


def arch_names() -> tuple[str, ...]:
    """Architectures that have a GPU."""
    return tuple(name for name, architecture in ARCHITECTURES.items() if architecture.sms)


def build_plugins(config: PluginBuildConfig, progress: Progress = lambda text: None) -> PluginLibrary:
    """Builds the plugin library, or takes it from the cache.

    The cache's key is a hash of everything that decides the result: sources, flags, targets, versions of
    compilers and headers. Processes that want the same library wait for the one that builds it.

    Args:
        config: What to build.
        progress: Told of each step.

    Returns:
        The library, in the cache or in `config.output`.

    Raises:
        UnavailableError: There is no CUDA or C++ compiler.
        BuildError: There are no sources, or a compiler refused one.
        DiskFullError: There is no room.
    """
    toolchain = toolchain_from_machine()
    job = _Job(config, toolchain, source_directory(), headers_from_machine(config.headers))
    cache = library_cache()
    cache.mkdir(parents=True, exist_ok=True)
    entry = cache / job.key
    with _locked(cache / f".{job.key}.lock"):
        cached = _is_intact(entry)
        if not cached:
            require_free_space(cache, BUILD_BYTES)
            _publish(job, entry, progress)
    library = library_from_path(entry / LIBRARY_FILE, cached=cached)
    progress(f"{'found in the cache' if cached else 'built'}: {library.path}")
    return library if config.output is None else _copied(library, config.output)


class _Job:
    """One build: its inputs' hash, and the commands that make it."""

    def __init__(
        self, config: PluginBuildConfig, toolchain: Toolchain, sources: Path, headers: Headers
    ) -> None:
        self.config = config
        self.toolchain = toolchain
        self.sources = sources
        self.headers = headers
        self.cutlass = cutlass_version(config.cutlass) if config.cutlass and CUTLASS_SM in config.sms else ""
        self.source_hash = hash_of_sources(sources)
        self.key = self._key()

    def _key(self) -> str:
        digest = hashlib.sha256()
        flags = [*CXX_FLAGS, *LINK_FLAGS, *SYSTEM_LIBRARIES, self.headers.version, self.cutlass]
        versions = [self.toolchain.nvcc_version, self.toolchain.cxx_version, self.source_hash]
        for text in [str(SCHEMA), *flags, *versions, *(TARGETS[sm] for sm in self.config.sms)]:
            digest.update(text.encode() + b"\0")
        return digest.hexdigest()[:32]

    def info(self) -> str:
        """The description that goes into the library."""
        return json.dumps(
            {
                "key": self.key,
                "sources": self.source_hash,
                "operators": list(OPERATORS),
                "sms": list(self.config.sms),
                "headers": self.headers.version,
                "cutlass": self.cutlass,
                "nvcc": self.toolchain.nvcc_version,
            }
        )

    def object_file(self, source: Path, work: Path) -> Path:
        return work / (str(source.relative_to(self.sources)).replace("/", "_") + ".o")

    def compile_command(self, source: Path, target: Path) -> list[str]:
        chain = self.toolchain
        if source.suffix == ".cpp":
            info = [f"-DR1TRT_BUILD_INFO={json.dumps(self.info())}"] if source.name == "register.cpp" else []
            include = ["-isystem", str(chain.include)]
            command = [str(chain.cxx), *CXX_FLAGS, *info, *self.headers.flags, *include]
        else:
            options = ["-optf", str(self.sources / "nvcc.options"), "-ccbin", str(chain.cxx)]
            sms: tuple[int, ...] = self.config.sms
            if self.cutlass and source.name == CUTLASS_SOURCE:
                options += [*CUTLASS_FLAGS, "-isystem", str(self.config.cutlass)]
                sms = (CUTLASS_SM,)
            codes = [f"-gencode=arch=compute_{TARGETS[sm]},code=sm_{TARGETS[sm]}" for sm in sms]
            command = [str(chain.nvcc), *options, *codes]
        return [*command, "-c", str(source), "-o", str(target)]

    def link_command(self, objects: list[Path], target: Path) -> list[str]:
        chain = self.toolchain
        script = f"-Wl,--version-script={self.sources / 'exports.map'}"
        return [
            *(str(chain.cxx), *LINK_FLAGS, script, *map(str, objects)),
            *(str(chain.runtime), *SYSTEM_LIBRARIES, "-o", str(target)),
        ]


def _publish(job: _Job, entry: Path, progress: Progress) -> None:
    """Builds into a hidden sibling of a cache entry and renames it into place."""
    partial = f".{entry.name}.tmp-"
    # Left by builds that were killed: who is here holds the entry's lock, so nobody writes them any more.
    for stale in entry.parent.glob(f"{partial}*"):
        shutil.rmtree(stale, ignore_errors=True)
    work = entry.with_name(f"{partial}{os.getpid()}-{secrets.token_hex(4)}")
    work.mkdir()
    try:
        _build(job, work, progress)
        shutil.rmtree(entry, ignore_errors=True)
        work.rename(entry)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _build(job: _Job, work: Path, progress: Progress) -> None:
    """Fills a cache entry: the library, its hash, and what the compilers printed."""
    with Compilers(job.config.jobs, scratch=work) as compilers:
        # NOTES: the kernels take by far the longest, so they start first.
        sources = sorted(compiled_files(job.sources), key=lambda path: path.suffix != ".cu")
        commands = {path: job.compile_command(path, job.object_file(path, work)) for path in sources}
        log = []
        for source, printed in compilers.run_all(commands, lambda path: progress(_step(job, path))):
            _require_overlapping_products(source, printed)
            log.append(printed)
        library = work / LIBRARY_FILE
        objects = [job.object_file(source, work) for source in sources]
        progress(f"linking {LIBRARY_FILE}")
        compilers.run(job.link_command(objects, library), source=library)
    for path in [path for path in work.iterdir() if path != library]:
        path.unlink()
    (work / LOG_FILE).write_text("".join(log), encoding="utf-8")
    (work / HASH_FILE).write_text(sha256_of_file(library) + "\n", encoding="ascii")
    for path in work.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _step(job: _Job, source: Path) -> str:
    return f"compiling {source.relative_to(job.sources)}"


def _require_overlapping_products(source: Path, printed: str) -> None:
    lines = [line for line in printed.splitlines() if SERIALIZED_WGMMA in line]
    if lines:
        raise BuildError(
            "Hopper's matrix products would run one after another.",
            where=source,
            found="\n".join(lines),
            fix="this is a defect of the kernel with this compiler: try another nvcc",
        )


def _is_intact(entry: Path) -> bool:
    try:
        expected = (entry / HASH_FILE).read_text(encoding="ascii").strip()
        return sha256_of_file(entry / LIBRARY_FILE) == expected
    except OSError:
        return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _copied(library: PluginLibrary, output: Path) -> PluginLibrary:
    """Puts a copy into a folder, replacing an older one in one step."""
    output.mkdir(parents=True, exist_ok=True)
    target = output / LIBRARY_FILE
    partial = output / f".{LIBRARY_FILE}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        copy_file(library.path, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return library_from_path(target, cached=library.cached)
