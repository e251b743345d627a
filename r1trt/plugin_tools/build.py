"""Builds the plugin library with nvcc, once for each set of inputs."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from r1trt.arch import ARCHITECTURES, GPU_ARCHITECTURES
from r1trt.artifacts.disk import copy_file, require_free_space, sha256_of_file
from r1trt.cache import forget_oldest
from r1trt.errors import R1TrtError, UsageError
from r1trt.files import text_of_file
from r1trt.lifetime.temporary import remove_if_left_behind, unfinished
from r1trt.ops.registry import OPERATORS
from r1trt.plugin_tools.compilers import Compilers
from r1trt.plugin_tools.library import (
    LIBRARY_FILE,
    PluginLibrary,
    library_cache,
    library_from_path,
    objects_directory,
)
from r1trt.plugin_tools.objects import Compilation, ObjectCache
from r1trt.plugin_tools.sources import (
    Headers,
    compiled_files,
    hash_of_sources,
    headers_from_machine,
    source_directory,
)
from r1trt.plugin_tools.targets import (
    TARGETS,
    cuda_compilation,
    require_overlapping_products,
)
from r1trt.plugin_tools.toolchain import Toolchain, toolchain_from_machine

ALL = "all"
LOG_FILE = "build.log"
HASH_FILE = "sha256"
SCHEMA = 1
CACHE_BYTES = 2 * 10**9
"""Of libraries that are kept beside the one in use: a library for all architectures has 25 MB."""
BUILD_BYTES = 1 << 28
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
Log = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class PluginBuildConfig:
    """What to build.

    Attributes:
        arch: An `--arch` with a GPU, or "all" for a library that holds code for every one.
        output: Folder that the library is copied to; None leaves it in the cache.
        headers: Folder of NVIDIA's TensorRT headers; None looks for them and does without if there are none.
        jobs: Compilers that run at the same time.
    """

    arch: str = ALL
    output: Path | None = None
    headers: Path | None = None
    jobs: int = 2

    def __post_init__(self) -> None:
        if self.arch not in (*GPU_ARCHITECTURES, ALL):
            raise UsageError(
                "The plugins are not built for this architecture.",
                where="arch",
                found=self.arch,
                expected=", ".join([*GPU_ARCHITECTURES, ALL]),
            )
        if self.jobs < 1:
            raise UsageError(
                "At least one compiler has to run.", where="jobs", found=self.jobs, expected=">= 1"
            )

    @property
    def sms(self) -> tuple[int, ...]:
        """Compute capabilities that code is compiled for."""
        if self.arch == ALL:
            return tuple(TARGETS)
        return tuple(sm for sm in ARCHITECTURES[self.arch].sms if sm in TARGETS)


def build_plugins(config: PluginBuildConfig, log: Log = lambda text: None) -> PluginLibrary:
    """Builds the plugin library, or takes it from the cache.

    The cache's key is a hash of everything that decides the result: sources, flags, targets, versions of
    compilers and headers. Processes that want the same library wait for the one that builds it.

    Args:
        config: What to build.
        log: Told of each step.

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
            _publish(job, entry, log)
    _forget_unused(entry)
    library = library_from_path(entry / LIBRARY_FILE, cached=cached)
    log(f"{'found in the cache' if cached else 'built'}: {library.path}")
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
        self.source_hash = hash_of_sources(sources)
        self.key = self._key()

    def _key(self) -> str:
        digest = hashlib.sha256()
        flags = [*CXX_FLAGS, *LINK_FLAGS, *SYSTEM_LIBRARIES, self.headers.version]
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
                "nvcc": self.toolchain.nvcc_version,
            }
        )

    def compilation(self, source: Path) -> Compilation:
        """How a source is compiled."""
        chain = self.toolchain
        if source.suffix == ".cu":
            return cuda_compilation(chain, source, self.sources, self.config.sms)
        info = [f"-DR1TRT_BUILD_INFO={json.dumps(self.info())}"] if source.name == "register.cpp" else []
        return Compilation(
            source=source,
            compiler=chain.cxx,
            version=chain.cxx_version,
            flags=(*CXX_FLAGS, *info, *self.headers.flags),
            system=(chain.include,),
        )

    def link_command(self, objects: list[Path], target: Path) -> list[str]:
        """The command that links the library."""
        chain = self.toolchain
        script = f"-Wl,--version-script={self.sources / 'exports.map'}"
        return [
            *(str(chain.cxx), *LINK_FLAGS, script, *map(str, objects)),
            *(str(chain.runtime), *SYSTEM_LIBRARIES, "-o", str(target)),
        ]


def _publish(job: _Job, entry: Path, log: Log) -> None:
    """Builds into a hidden sibling of a cache entry and renames it into place."""
    with unfinished(entry) as work:
        work.mkdir()
        _build(job, work, log)
        shutil.rmtree(entry, ignore_errors=True)
        work.rename(entry)


def _build(job: _Job, work: Path, log: Log) -> None:
    """Fills a cache entry: the library, its hash, and what the compilers printed."""
    library = work / LIBRARY_FILE
    with Compilers(job.config.jobs, scratch=work) as compilers:
        # NOTES: the kernels take by far the longest, so they start first.
        sources = sorted(compiled_files(job.sources), key=lambda path: path.suffix != ".cu")
        objects = ObjectCache(objects_directory(), compilers).objects(
            [job.compilation(source) for source in sources],
            lambda source: log(f"compiling {source.relative_to(job.sources)}"),
        )
        compiled = [require_overlapping_products(item) for item in objects]
        log(f"linking {LIBRARY_FILE}")
        compilers.run(job.link_command([item.path for item in compiled], library), source=library)
    (work / LOG_FILE).write_text("".join(item.printed for item in compiled), encoding="utf-8")
    (work / HASH_FILE).write_text(sha256_of_file(library) + "\n", encoding="ascii")
    for path in work.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _forget_unused(entry: Path) -> None:
    """Notes that an entry was used, and keeps the cache within its size."""
    os.utime(entry)
    others = [path.parent for path in entry.parent.glob(f"*/{HASH_FILE}") if path.parent != entry]
    for stale in entry.parent.glob(".*.tmp-*"):
        remove_if_left_behind(stale)
    forget_oldest(others, CACHE_BYTES)


def _is_intact(entry: Path) -> bool:
    try:
        expected = text_of_file(entry / HASH_FILE, limit=1 << 10).strip()
        return sha256_of_file(entry / LIBRARY_FILE) == expected
    except R1TrtError:
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
    with unfinished(target) as partial:
        copy_file(library.path, partial)
        partial.replace(target)
    return library_from_path(target, cached=library.cached)
