"""Summaries of what the pipeline reads and writes; headers and graphs only, never weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from r1trt.artifacts.manifest import MANIFEST_FILE
from r1trt.errors import ConfigError
from r1trt.inspect.artifact import summary_of_artifact
from r1trt.inspect.checkpoint import summary_of_checkpoint, summary_of_safetensors
from r1trt.inspect.graph import summary_of_onnx
from r1trt.inspect.plan import summary_of_plan
from r1trt.inspect.summary import Summary

_FILES: Mapping[str, Callable[[Path], Summary]] = {
    ".safetensors": summary_of_safetensors,
    ".onnx": summary_of_onnx,
    ".yaml": summary_of_plan,
}


def summary_of_path(path: Path) -> Summary:
    """Summarizes a checkpoint, an export, a build, a repository, or a single file.

    Raises:
        R1TrtError: The path is none of these, or is damaged.
    """
    if path.is_dir():
        is_artifact = (path / MANIFEST_FILE).exists()
        return summary_of_artifact(path) if is_artifact else summary_of_checkpoint(path)
    summarize = _FILES.get(path.suffix)
    if summarize is None:
        raise ConfigError(
            "r1trt does not know this kind of file.",
            where=path,
            expected=f"a directory, or a file that ends in {', '.join(_FILES)}",
        )
    return summarize(path)
