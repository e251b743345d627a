"""Weights that a build read, against what earlier builds of the same export read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from r1trt.artifacts.build import BuildManifest
from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.export import ExportArtifact, WeightFile
from r1trt.artifacts.weight_hashes import (
    KnownHashes,
    hashes_of_build,
    hashes_of_export,
    record_hashes,
    require_known_content,
)
from r1trt.build.weight_scan import read_weights
from r1trt.checkpoint.content_hash import FileContent
from r1trt.export.io import ExportedModel
from r1trt.progress import Progress, ignore


def read_known_weights(
    export: ExportedModel, output: Path, progress: Progress = ignore
) -> Mapping[str, FileContent]:
    """Read the weights, compare them with what is known of them, and make them known.

    Args:
        export: What is built.
        output: Where the build goes; one that is there already remembers, too.
        progress: Called with (phase, done, total).

    Returns:
        The contents of the files that hold weights of the graph, by name.

    Raises:
        CheckpointError: A file cannot be read, or holds NaN or infinity.
        ExportError: Contents changed since an earlier build.
        ArtifactError: The record in the export is damaged.
    """
    contents = read_weights(export.model, progress)
    found = {name: content.sha256 for name, content in contents.items()}
    known = [hashes_of_export(export.artifact), *_of_earlier_build(export.artifact, output)]
    require_known_content(export.weight_base, found, known)
    record_hashes(export.artifact, found)
    return contents


def _of_earlier_build(export: ExportArtifact, output: Path) -> Iterator[KnownHashes]:
    """Of an export that cannot be written, only the build that would be replaced knows the contents."""
    try:
        manifest = BuildManifest.read(output)
    except ArtifactError:
        return
    # NOTES: a build of an export that was made again since says nothing of its weights.
    files = tuple(
        WeightFile(
            name=file.name,
            bytes=file.bytes,
            header_sha256=file.header_sha256,
            modified_ns=file.modified_ns,
        )
        for file in manifest.source.weights
    )
    if files == export.manifest.weights.files:
        yield hashes_of_build(output, manifest)
