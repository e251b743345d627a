"""What the weights of an export hold: recorded by the first build of it, compared by every later one.

The record is a file of its own, since builds and validations of the export speak of its manifest's hash.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from r1trt.artifacts.build import BuildManifest
from r1trt.artifacts.disk import replace_file
from r1trt.artifacts.documents import document_from_file
from r1trt.artifacts.errors import ArtifactError, DiskFullError
from r1trt.artifacts.export import ExportArtifact
from r1trt.artifacts.fields import Check, Sha256
from r1trt.artifacts.lock import locked_for_writing
from r1trt.artifacts.manifest import MANIFEST_FILE, json_text
from r1trt.errors import ExportError
from r1trt.text import listing

SCHEMA = 1
_Schema = Annotated[int, Check(expected=str(SCHEMA), holds=lambda schema: bool(schema == SCHEMA))]
_LOCK_WAIT_S = 5.0
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, kw_only=True)
class WeightHashes:
    """The record in an export.

    Attributes:
        schema: Version of the document.
        sha256: Hash of each file's content, in hex, by the name that the export's manifest has.
    """

    schema: _Schema = SCHEMA
    sha256: Mapping[str, Sha256]


@dataclass(frozen=True, kw_only=True)
class KnownHashes:
    """Hashes of weights that were written down.

    Attributes:
        place: File that has them.
        sha256: By the weight file's name.
    """

    place: Path
    sha256: Mapping[str, str]


def hashes_of_export(export: ExportArtifact) -> KnownHashes:
    """What builds recorded in the export itself; nothing where none could write there.

    Raises:
        ArtifactError: The record is damaged.
    """
    file = export.weight_hashes
    if not os.path.lexists(file):
        return KnownHashes(place=file, sha256={})
    fix = "remove the file, if the weights are those that were exported: the next build writes it again"
    recorded = document_from_file(WeightHashes, file, fix=fix).sha256
    listed = {entry.name for entry in export.manifest.weights.files}
    return KnownHashes(place=file, sha256={name: recorded[name] for name in recorded.keys() & listed})


def hashes_of_build(directory: Path, manifest: BuildManifest) -> KnownHashes:
    """What a build wrote into its own manifest."""
    known = {file.name: file.sha256 for file in manifest.source.weights if file.sha256 is not None}
    return KnownHashes(place=directory / MANIFEST_FILE, sha256=known)


def require_known_content(base: Path, found: Mapping[str, str], known: Iterable[KnownHashes]) -> None:
    """Refuses weights that are not what they were.

    Args:
        base: Directory of the weights.
        found: Hashes of their contents now, in hex, by name.
        known: What was recorded; files that only one side has are not compared.

    Raises:
        ExportError: Contents differ; lists the files, with both hashes.
    """
    changed = [
        f"{name}: SHA-256 {sha256}, {record.sha256[name]} expected by {record.place}"
        for record in known
        for name, sha256 in found.items()
        if record.sha256.get(name, sha256) != sha256
    ]
    if changed:
        raise ExportError(
            "Weights changed since a build read them: same sizes and headers, other contents.",
            where=base,
            found=listing(changed),
            fix="put the original files back; or, if the new contents are meant, run `r1trt export` again "
            "and build from that",
        )


def record_hashes(export: ExportArtifact, found: Mapping[str, str]) -> None:
    """Writes into an export what its weights hold, where it can be written.

    Args:
        export: The export.
        found: Hashes of contents, in hex, by name.

    Raises:
        ExportError: Another build has recorded something else meanwhile.
    """
    if found.items() <= hashes_of_export(export).sha256.items():
        return
    # An export on a full or read-only disk, or one that is just being made again, can be built all the same:
    # the build's own manifest has the hashes.
    with suppress(DiskFullError, ArtifactError):
        try:
            _record(export, found)
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise


def _record(export: ExportArtifact, found: Mapping[str, str]) -> None:
    with locked_for_writing(export.path.resolve(), wait_s=_LOCK_WAIT_S):
        if ExportArtifact.read(export.path) != export:
            return  # made again since: the hashes are not this one's
        known = hashes_of_export(export)
        require_known_content(export.weight_base, found, [known])
        document = {"schema": SCHEMA, "sha256": {**known.sha256, **found}}
        replace_file(export.weight_hashes, json_text(document))
