"""The part of a model that a stage runs, from the files of the machine that it is on."""

from __future__ import annotations

import platform
import shlex
from pathlib import Path

from r1trt.artifacts.build import BuildArtifact
from r1trt.artifacts.parts import PartsArtifact
from r1trt.errors import UnavailableError
from r1trt.runtime.engine_session import session_from_part
from r1trt.runtime.onnxruntime_model import LoadOptions
from r1trt.runtime.onnxruntime_session import OnnxRuntimeSession
from r1trt.runtime.session import SessionError


def session_of_stage(directory: Path, index: int, build: str, threads: int | None) -> OnnxRuntimeSession:
    """Loads one part.

    Args:
        directory: The directory that all parts are in.
        index: Which of them.
        build: What all parts have in common, by the directory of whoever asks.
        threads: CPU threads of ONNX Runtime.

    Raises:
        ArtifactError: The part is missing on this machine, changed, or in another's place.
        SessionError: It is of another build, or cannot be loaded.
        UnavailableError: There is nothing on this machine, or the part is not for a CPU.
    """
    node = platform.node()
    if not directory.is_dir():
        raise UnavailableError(
            f"The machine of stage {index} does not have the model.",
            where=f"{directory} on {node}",
            found="no such directory",
            expected="the manifests and the stage's own part, as they were built",
            fix=f"copy {shlex.quote(str(directory))} to the same path there, or start its node with"
            f" --resources '{{\"{stage_resource(index)}\": 1}}' where the part is",
        )
    artifact = PartsArtifact.of(BuildArtifact.read(directory))
    if artifact.manifest.build != build:
        raise SessionError(
            f"The machine of stage {index} has another build.",
            where=f"{directory} on {node}",
            found=artifact.manifest.build[:16],
            expected=build[:16],
            fix="copy the same build to all machines",
        )
    return session_from_part(artifact.part(index), LoadOptions(threads=threads))


def stage_resource(index: int) -> str:
    """Ray's resource that a node may be started with, so that this stage runs there and nowhere else."""
    return f"r1trt-stage-{index}"
