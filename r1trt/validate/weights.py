"""Weights that a validation compares with, against what builds read: else it would judge another model."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from r1trt.artifacts import BuildArtifact
from r1trt.artifacts.export import WeightFile
from r1trt.artifacts.weight_hashes import (
    KnownHashes,
    hashes_of_build,
    hashes_of_export,
    require_known_content,
)
from r1trt.checkpoint import read_safetensors_header
from r1trt.checkpoint.content_hash import ContentHash
from r1trt.errors import CheckpointError
from r1trt.progress import Progress, ignore
from r1trt.validate.sources import Sources


def require_weights_as_built(sources: Sources, reference: Path | None, progress: Progress = ignore) -> None:
    """Read the weights once more, in front of the libraries that load them.

    Args:
        sources: What is validated, and what it was made from.
        reference: The caller's own checkpoint, which nothing is known of.
        progress: Called with ("checking weights", bytes read, in all).

    Raises:
        ExportError: Contents changed since a build read them.
        ArtifactError: A record is damaged.
        CheckpointError: A file cannot be read.
    """
    known = list(_known(sources))
    files = [file for file in _files(sources) if any(file.name in record.sha256 for record in known)]
    present = [(base, file) for base in _bases(sources, reference) for file in files if _is_there(base, file)]
    total, done, found = sum(file.bytes for _, file in present), 0, dict[Path, dict[str, str]]()
    with ThreadPoolExecutor(max_workers=1) as beside:
        for base, file in present:
            progress("checking weights", done, total)
            content = ContentHash(base / file.name, beside).content()
            found.setdefault(base, {})[file.name] = content.sha256
            done += file.bytes
    for base, hashes in found.items():
        require_known_content(base, hashes, known)


def _known(sources: Sources) -> Iterator[KnownHashes]:
    if isinstance(sources.artifact, BuildArtifact):
        yield hashes_of_build(sources.artifact.path, sources.artifact.manifest)
    if sources.export is not None:
        yield hashes_of_export(sources.export)


def _files(sources: Sources) -> tuple[WeightFile, ...]:
    if isinstance(sources.artifact, BuildArtifact):
        return sources.artifact.manifest.source.weights
    return sources.artifact.manifest.weights.files


def _bases(sources: Sources, reference: Path | None) -> list[Path]:
    """Directories that stages read weights from; an export without copies has those of the checkpoint."""
    found = [] if sources.export is None else [sources.export.weight_base]
    if sources.checkpoint is not None and reference is None:
        found.append(sources.checkpoint)
    return list(dict.fromkeys(path.resolve() for path in found))


def _is_there(base: Path, file: WeightFile) -> bool:
    """Whether a manifest's file is one of weights; where sizes or headers differ, its own stage says so."""
    with suppress(CheckpointError):
        header = read_safetensors_header(base, file.name)
        return (header.file_bytes, header.header_sha256) == (file.bytes, file.header_sha256)
    return False
