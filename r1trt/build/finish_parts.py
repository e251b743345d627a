"""A model in parts that stopped in front of its engines, finished part by part."""

from __future__ import annotations

from pathlib import Path

from r1trt.artifacts.build import BuildArtifact
from r1trt.artifacts.parts import PartsArtifact
from r1trt.build.config import BuildConfig
from r1trt.build.finish import finish_build, require_unfinished
from r1trt.build.parts_manifest import update_whole
from r1trt.errors import UsageError
from r1trt.progress import Progress


def finish_any_build(source: BuildArtifact, config: BuildConfig, progress: Progress) -> Path:
    """Build the engines of an unfinished build, a part, or a model in parts.

    Parts may be finished on several machines, each by itself; what is finished already is left as it is.

    Args:
        source: The build.
        config: Options of the command that finishes it.
        progress: Called with (phase, done, total).

    Returns:
        The finished build's directory.

    Raises:
        R1TrtError: What `finish_build` raises; or a part is missing, changed or of another build.
    """
    if not source.manifest.parts:
        return finish_build(source, config, progress)
    require_unfinished(source, config)
    if config.output is not None:
        raise UsageError("Parts are finished where they are.", found="--output", fix="leave it out")
    for index, part in enumerate(PartsArtifact.of(source).parts()):
        if not part.manifest.is_finished:
            progress(f"building part {index}", 0, 1)
            finish_build(part, config, progress)
            progress(f"building part {index}", 1, 1)
    update_whole(source)
    return source.path
