"""A build's engine as a table of rows that requests share."""

from __future__ import annotations

import shlex
from pathlib import Path

from r1trt.artifacts.build import BuildArtifact
from r1trt.errors import UnavailableError
from r1trt.runtime.engine_session import session_from_build
from r1trt.runtime.onnxruntime_model import LoadOptions
from r1trt.runtime.session import Session, SessionError

_HUGE_PAGE_SECONDS = 5.0


def serving_session(engine: Path, rows: int, *, threads: int | None = None) -> Session:
    """Load a build directory and start a table of empty rows.

    Args:
        engine: Build directory.
        rows: Sequences at a time, at most.
        threads: CPU threads of ONNX Runtime; None takes one for each core that may be used.

    Raises:
        SessionError: The engine has no KV cache, or was built for fewer rows.
        UnavailableError: It needs a GPU or a library that is not here, or was not finished.
    """
    build = BuildArtifact.read(engine)
    if not build.manifest.is_finished:
        raise UnavailableError(
            "This build is not finished: it has no engine.",
            where=engine,
            fix=f"r1trt build {shlex.quote(str(engine))}",
        )
    if not build.manifest.cache:
        raise SessionError(
            "A scoring engine cannot generate: it has no KV cache.",
            where=engine,
            fix="build without --no-cache",
        )
    if rows < 1 or rows > build.manifest.max_batch_size:
        raise SessionError(
            "The engine was not built for so many rows.",
            where=engine,
            found=rows,
            expected=f"1 to {build.manifest.max_batch_size} (--max-batch-size)",
        )
    session = session_from_build(build, LoadOptions(threads=threads, huge_page_seconds=_HUGE_PAGE_SECONDS))
    if rows > 1 and not session.limits.addressable_rows:
        raise SessionError(
            "The rows of the KV cache do not start at addresses that TensorRT accepts.",
            where=engine,
            fix="build with a --max-seq-len that is a multiple of 64, or serve one row",
        )
    session.reset(rows)
    return session
