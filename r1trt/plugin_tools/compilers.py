"""Runs compilers side by side, and ends all of them when one fails or the build is interrupted."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from r1trt.errors import BuildError
from r1trt.lifetime.children import ChildGroup
from r1trt.lifetime.temporary import temporary_directory

ERROR_LINES = 40

Item = TypeVar("Item")
Result = TypeVar("Result")


class Compilers:
    """Compilers of one build; leaving the context ends those that still run.

    Args:
        jobs: How many run at the same time.
        scratch: Folder in which they keep their temporary files; None takes the system's.
    """

    def __init__(self, jobs: int = 2, *, scratch: Path | None = None) -> None:
        self._pool = ThreadPoolExecutor(jobs)
        self._context = ExitStack()
        temporary: AbstractContextManager[object] = (
            temporary_directory("compilers")
            if scratch is None
            else tempfile.TemporaryDirectory(prefix="compilers-", dir=scratch)
        )
        self._environment = {**os.environ, "TMPDIR": str(self._context.enter_context(temporary))}
        # nvcc is a driver: its compilers are in the group as well.
        self._group = ChildGroup()
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> Compilers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._stopped = True
            self._group.close()
        self._pool.shutdown(cancel_futures=True)
        self._context.close()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Calls a function that runs a compiler on each item, side by side.

        Yields:
            The results in the order of `items`; what a call raises is raised in its place.
        """
        pending = [self._pool.submit(function, item) for item in items]
        for future in pending:
            yield future.result()

    def run(self, command: Sequence[str], *, source: Path) -> str:
        """Runs one command; returns what it printed.

        Raises:
            BuildError: It failed, or cannot be started.
        """
        try:
            process = self._start(command)
        except OSError as error:
            raise BuildError("A compiler does not run.", where=command[0], found=error.strerror) from error
        printed, _ = process.communicate()
        if process.returncode == 0:
            return printed
        errors = [line for line in printed.splitlines() if "ptxas info" not in line]
        raise BuildError(
            "A source does not compile.",
            where=source,
            found="\n".join(errors[-ERROR_LINES:]) or f"{command[0]}: exit status {process.returncode}",
            fix="try other compilers: CUDACXX names nvcc, CXX the C++ compiler",
        )

    def _start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        with self._lock:
            if self._stopped:
                raise BuildError("The build was interrupted.", where=command[0])
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=self._environment,
                process_group=self._group.id,
            )
