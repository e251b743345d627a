"""A session of whatever a directory holds."""

from __future__ import annotations

from pathlib import Path

from r1trt.artifacts import BuildArtifact, ExportArtifact, read_artifact
from r1trt.artifacts.trusted_code import require_trusted_build
from r1trt.runtime.engine_session import session_from_build
from r1trt.runtime.onnxruntime_model import LoadOptions
from r1trt.runtime.session import Session, SessionError


def session_from_engine(engine: Path, *, threads: int | None = None, trust_plugins: bool = False) -> Session:
    """Load what a directory holds, by its manifest.

    Args:
        engine: Build directory, or an export directory, whose graph ONNX Runtime runs as it is.
        threads: CPU threads of ONNX Runtime; None takes one for each core that may be used.
        trust_plugins: Code that the directory brings may run, even if this machine did not make it.

    Returns:
        A session on the CPU for `--arch cpu` and for exports, on this machine's GPU for TensorRT engines.

    Raises:
        R1TrtError: The directory is damaged or of another kind.
        UnavailableError: It needs a GPU or a library that is not here.
    """
    artifact = read_artifact(engine)
    if isinstance(artifact, ExportArtifact):
        # Only here: reading an export needs ONNX and takes longer to import than a small model to load.
        from r1trt.runtime.graph_session import session_from_export

        return session_from_export(artifact, threads=threads)
    if not isinstance(artifact, BuildArtifact):
        raise SessionError(
            "This directory holds nothing that can be run.",
            where=engine,
            found=f"kind {artifact.manifest.KIND!r}",
            expected="the directory of a build or of an export",
        )
    artifact.require_finished()
    if artifact.manifest.backend == "onnxruntime":
        artifact.require_whole()
    else:
        require_trusted_build(artifact, trusted=trust_plugins)
    return session_from_build(artifact, LoadOptions(threads=threads))
