"""What the toolchain leaves on the disk: directories described by a manifest, written whole or not at all.

Names of files and keys of manifests are spelled here and nowhere else.
"""

from __future__ import annotations

from pathlib import Path

from r1trt.artifacts.build import BuildArtifact
from r1trt.artifacts.export import ExportArtifact
from r1trt.artifacts.manifest import read_manifest
from r1trt.artifacts.repository import RepositoryArtifact

Artifact = ExportArtifact | BuildArtifact | RepositoryArtifact

_KINDS: dict[str, type[ExportArtifact] | type[BuildArtifact] | type[RepositoryArtifact]] = {
    "export": ExportArtifact,
    "engine": BuildArtifact,
    "triton": RepositoryArtifact,
}


def read_artifact(path: Path) -> Artifact:
    """Reads a directory that some r1trt command wrote.

    Raises:
        ArtifactError: It is not such a directory, or its manifest is not valid.
    """
    return _KINDS[read_manifest(path)["kind"]].read(path)


__all__ = ["Artifact", "BuildArtifact", "ExportArtifact", "RepositoryArtifact", "read_artifact"]
