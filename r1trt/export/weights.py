"""Where an export's weights lie: in the checkpoint, untouched, or copied beside the graph."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from r1trt.artifacts.disk import copy_file, require_free_space
from r1trt.artifacts.export import LOCAL_WEIGHTS
from r1trt.checkpoint import Checkpoint
from r1trt.errors import ExportError
from r1trt.progress import Progress


@dataclass(frozen=True, kw_only=True)
class WeightLayout:
    """The weight base directory, and each weight file's name below it.

    Attributes:
        base_directory: An absolute path, or "." for the export directory itself.
        locations: Name in the checkpoint to name below the base directory.
    """

    base_directory: str
    locations: Mapping[str, str]


def copied_weights(checkpoint: Checkpoint) -> WeightLayout:
    """The layout of a self-contained export."""
    return WeightLayout(
        base_directory=LOCAL_WEIGHTS, locations={header.file: header.file for header in checkpoint.files}
    )


def weights_in_place(checkpoint: Checkpoint) -> WeightLayout:
    """The layout that leaves the weights in the checkpoint.

    ONNX Runtime and onnx refuse external data behind links that leave their directory. Hugging Face's
    cache is
    made of such links, all into one directory of blobs, which therefore becomes the weight base directory.

    Raises:
        ExportError: Linked weight files lie in several directories.
    """
    base = checkpoint.path.resolve()
    if not checkpoint.has_links:
        return WeightLayout(
            base_directory=str(base), locations={header.file: header.file for header in checkpoint.files}
        )
    targets = {header.file: (checkpoint.path / header.file).resolve() for header in checkpoint.files}
    directories = {target.parent for target in targets.values()}
    if len(directories) > 1:
        raise ExportError(
            "The checkpoint's weight files are links into several directories.",
            where=checkpoint.path,
            found=", ".join(sorted(map(str, directories))),
            expected="all in one directory",
            fix="pass --copy to put the weights beside the graph",
        )
    return WeightLayout(
        base_directory=str(directories.pop()),
        locations={file: target.name for file, target in targets.items()},
    )


def copy_weights(checkpoint: Checkpoint, directory: Path, progress: Progress) -> None:
    """Copy the weight files into `directory`, by reflink where the file system can; progress in bytes."""
    total, done = sum(header.file_bytes for header in checkpoint.files), 0
    require_free_space(directory, total)
    for header in checkpoint.files:
        progress("copying weights", done, total)
        target = directory / header.file
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(checkpoint.path / header.file, target)
        os.utime(target, ns=(header.modified_ns, header.modified_ns))
        done += header.file_bytes
    progress("copying weights", total, total)
