"""Objects and libraries of compilers: each is made once for all that decides it, whoever asks for it."""

from __future__ import annotations

import fcntl
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from r1trt.lifetime.temporary import unfinished
from r1trt.plugin_tools.compilers import Compilers

UNUSED_AFTER_S = 3 * 24 * 3600
QUOTED_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """How a source becomes an object.

    Attributes:
        source: The file.
        compiler: nvcc or the C++ compiler.
        version: What the compiler is, with the compiler that it calls.
        flags: Flags that decide the result.
        options: A file of further flags, for nvcc's `-optf`.
        folders: Where quoted includes are searched, as by `-I`; the files found there decide the result.
        system: Where the others are searched, as by `-isystem`; the compiler's version stands for them.
    """

    source: Path
    compiler: Path
    version: str
    flags: tuple[str, ...] = ()
    options: Path | None = None
    folders: tuple[Path, ...] = ()
    system: tuple[Path, ...] = ()

    def command(self, target: Path) -> list[str]:
        """The compiler's command line."""
        options = [] if self.options is None else ["-optf", str(self.options)]
        include = [f"-I{folder}" for folder in self.folders]
        system = [word for folder in self.system for word in ("-isystem", str(folder))]
        return [
            *(str(self.compiler), *options, *self.flags, *include, *system),
            *("-c", str(self.source), "-o", str(target)),
        ]

    @property
    def key(self) -> str:
        """A hash of everything that decides the object; paths of files and folders do not."""
        files = [self.source, *included_files(self.source, self.folders)]
        files += [] if self.options is None else [self.options]
        texts = (f"{path.name}\0{path.read_text(encoding='utf-8')}" for path in files)
        return _digest(self.version, *self.flags, *texts)


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """An object.

    Attributes:
        source: What it was compiled from.
        path: The file, in the cache.
        printed: What the compiler said.
    """

    source: Path
    path: Path
    printed: str


class ObjectCache:
    """A folder of objects and of what was linked of them.

    Processes that want the same file wait for the one that makes it. What nobody has asked for in days is
    removed when a cache is opened.

    Args:
        folder: Where the files are.
        compilers: What runs the compilers.
    """

    def __init__(self, folder: Path, compilers: Compilers) -> None:
        self.folder = folder
        self.compilers = compilers
        folder.mkdir(parents=True, exist_ok=True)
        self._forget_unused()

    def objects(
        self, compilations: Sequence[Compilation], started: Callable[[Path], None] = lambda source: None
    ) -> Iterator[Compiled]:
        """Compiles what is not there yet, side by side.

        Args:
            compilations: What to compile, in the order to start in.
            started: Called with a source when its compiler starts.

        Yields:
            The objects in the order of `compilations`.

        Raises:
            BuildError: A source does not compile.
        """
        return self.compilers.map(lambda item: self._object(item, started), compilations)

    def linked(
        self,
        name: str,
        objects: Sequence[Path],
        command: Sequence[str],
        *,
        libraries: Sequence[str] = (),
        inputs: Sequence[Path] = (),
    ) -> Path:
        """Links objects, unless this has been done.

        Args:
            name: The file's name, before its hash.
            objects: Files of this cache.
            command: The linker and its flags; the objects and the output are put behind it.
            libraries: Flags that stand behind the objects.
            inputs: Files that the flags name and that decide the result.

        Raises:
            BuildError: They do not link.
        """
        texts = (path.read_text(encoding="utf-8") for path in inputs)
        key = _digest(*command, *(path.name for path in objects), *libraries, *texts)
        target = self.folder / f"{name}-{key}.so"

        def link(partial: Path) -> None:
            self.compilers.run([*command, *map(str, objects), *libraries, "-o", str(partial)], source=target)

        self._made(target, link)
        return target

    def _object(self, compilation: Compilation, started: Callable[[Path], None]) -> Compiled:
        source = compilation.source
        target = self.folder / f"{source.stem}-{compilation.key}.o"
        log = target.with_suffix(".log")

        def compile_it(partial: Path) -> None:
            started(source)
            log.write_text(self.compilers.run(compilation.command(partial), source=source), encoding="utf-8")

        self._made(target, compile_it)
        return Compiled(source=source, path=target, printed=log.read_text(encoding="utf-8"))

    def _made(self, target: Path, make: Callable[[Path], None]) -> None:
        """Makes a file in one step unless it is there; a process that wants the same one waits."""
        with self._locked(target):
            if target.exists():
                for path in (target, target.with_suffix(".log")):
                    if path.exists():
                        path.touch()
                return
            with unfinished(target) as partial:
                make(partial)
                partial.replace(target)

    @contextmanager
    def _locked(self, target: Path) -> Iterator[None]:
        # Few lock files for many targets: two of the same lock wait for one another for nothing.
        with (self.folder / f"{target.stem[-2:]}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _forget_unused(self) -> None:
        oldest = time.time() - UNUSED_AFTER_S
        for path in self.folder.iterdir():
            # What is gone by now has been renamed or removed by another process.
            with suppress(FileNotFoundError):
                status = path.stat()
                if S_ISREG(status.st_mode) and path.suffix != ".lock" and status.st_mtime < oldest:
                    path.unlink()


def included_files(source: Path, folders: Sequence[Path]) -> list[Path]:
    """Every file that a source includes by its quoted name, and those that they include, in order.

    Args:
        source: The source.
        folders: Where a file is searched that is not beside the one that includes it.
    """
    found: list[Path] = []
    pending = [source]
    while pending:
        path = pending.pop()
        for name in QUOTED_INCLUDE.findall(path.read_text(encoding="utf-8")):
            candidates = (folder / name for folder in (path.parent, *folders))
            header = next((file.resolve() for file in candidates if file.is_file()), None)
            # What is not found is a system's file, or the compiler will say so.
            if header is not None and header not in found:
                found.append(header)
                pending.append(header)
    return found


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
