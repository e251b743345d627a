"""A model in parts: consecutive layers are a build each, in directories below that of the whole.

`parts.json` lies beside the whole's manifest and says which parts there are, in which order, and what goes
from one to the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from r1trt.artifacts.build import BuildArtifact, BuildManifest, FileEntry
from r1trt.artifacts.disk import replace_file, sha256_of_file
from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.fields import Count, FileName, InvalidFieldsError, Sha256, Size, from_json
from r1trt.artifacts.manifest import json_from_file, json_text
from r1trt.text import listing

PARTS_FILE = "parts.json"
HASHED_BYTES = 16 << 20
"""Files up to this size are hashed whenever parts are loaded; larger ones by validation."""


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """A KV cache of a part: an input, and an output with "_cache_out." in place of "_cache.".

    Attributes:
        name: The input; its number is the layer's in the whole model.
        heads: Heads of a row.
        capacity: Tokens of a row.
        elements: Elements of a head.
        type: The type's name in ONNX.
    """

    name: str
    heads: Count
    capacity: Count
    elements: Count
    type: str


@dataclass(frozen=True, kw_only=True)
class PartEntry:
    """One part.

    Attributes:
        directory: Its directory, below the whole's.
        first_layer: Its first decoder layer.
        last_layer: Its last one.
        input: What it gets.
        output: What it gives.
        caches: Its caches.
        device: Device that its time is modelled on.
        weight_bytes: Bytes of its typed weights.
        prefill_seconds: Modelled time of a prompt's largest call of one row.
        decode_seconds: Modelled time of one more token behind a full cache, likewise.
        tensors: The checkpoint's tensors that it is made of, by their file.
        files: Files that decide what it is, with their hashes; a GPU's engines are its own manifest's.
    """

    directory: FileName
    first_layer: Size
    last_layer: Size
    input: Literal["input_ids", "hidden_in"]
    output: Literal["logits", "hidden_out"]
    caches: tuple[CacheEntry, ...]
    device: str
    weight_bytes: Size
    prefill_seconds: float
    decode_seconds: float
    tensors: Mapping[str, tuple[str, ...]]
    files: tuple[FileEntry, ...]


@dataclass(frozen=True, kw_only=True)
class PartsManifest:
    """What a model in parts consists of, in the order that they run.

    Attributes:
        build: What all parts have in common, in hex.
        hidden_size: D of the hidden state [B, S, D] between them.
        hidden_type: Its type.
        parts: The parts.
    """

    build: Sha256
    hidden_size: Count
    hidden_type: Literal["float32"] = "float32"
    parts: tuple[PartEntry, ...]

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Reads `parts.json` of a directory.

        Raises:
            ArtifactError: It is missing or not valid; lists the keys.
        """
        path = directory / PARTS_FILE
        try:
            return from_json(cls, json_from_file(path))
        except InvalidFieldsError as error:
            raise ArtifactError(
                "The list of a model's parts is not valid.",
                where=path,
                found=listing(error.problems),
                fix="copy it again from where it was made, or build again",
            ) from error

    def write(self, directory: Path) -> None:
        """Writes `parts.json` into a directory."""
        replace_file(directory / PARTS_FILE, json_text(asdict(self)))


@dataclass(frozen=True, kw_only=True)
class PartsArtifact:
    """A model in parts that is there.

    Attributes:
        whole: The directory around the parts.
        manifest: What they are.
    """

    whole: BuildArtifact
    manifest: PartsManifest

    @classmethod
    def of(cls, whole: BuildArtifact) -> Self:
        """Reads the list of a build's parts.

        Raises:
            ArtifactError: It is missing, not valid, or not what was built.
        """
        manifest = PartsManifest.read(whole.path)
        _require_content(whole, [entry for entry in whole.manifest.entries if entry.file == PARTS_FILE])
        if len(manifest.parts) != whole.manifest.parts:
            raise ArtifactError(
                "The manifest and the list of parts are of two builds.",
                where=whole.path / PARTS_FILE,
                found=f"{len(manifest.parts)} parts",
                expected=f"{whole.manifest.parts}, as the manifest says",
                fix="copy the directory again, or build again",
            )
        return cls(whole=whole, manifest=manifest)

    def parts(self) -> tuple[BuildArtifact, ...]:
        """The parts in the order that they run, each checked to be the one that is meant.

        Raises:
            ArtifactError: One is missing, of another build, in another's place, or changed.
        """
        return tuple(self.part(index) for index in range(len(self.manifest.parts)))

    def require_unchanged(self) -> None:
        """Hashes all files of all parts.

        Raises:
            ArtifactError: One is not what was built.
        """
        for entry, part in zip(self.manifest.parts, self.parts(), strict=True):
            _require_content(part, entry.files)

    def part(self, index: int) -> BuildArtifact:
        """One part, checked to be the one that is meant; the others need not be there.

        Raises:
            ArtifactError: It is missing, of another build, in another's place, or changed.
        """
        entry, count = self.manifest.parts[index], len(self.manifest.parts)
        path = self.whole.path / entry.directory
        if not path.is_dir():
            raise ArtifactError(
                f"Part {index} of {count} is missing.",
                where=path,
                expected=f"the directory of layers {entry.first_layer} to {entry.last_layer}",
                fix="copy it there, or build again",
            )
        part = BuildArtifact(path=path, manifest=BuildManifest.read(path))
        self._require_place(part, index)
        if (found := _decisive(part.manifest)) != entry.files:
            names = sorted({file.file for file in set(found) ^ set(entry.files)})
            raise _changed(path, f"another {', '.join(names)}", "the files that were built with the others")
        part.require_whole()
        _require_content(part, [file for file in entry.files if file.bytes <= HASHED_BYTES])
        return part

    def _require_place(self, part: BuildArtifact, index: int) -> None:
        own, count = part.manifest.part, len(self.manifest.parts)
        fix = "copy the parts of one build, each to the directory of its own name"
        if own is None or own.build != self.manifest.build:
            raise ArtifactError(
                f"Part {index} of {count} is of another build.",
                where=part.path,
                found="a whole model" if own is None else f"build {own.build[:16]}",
                expected=f"build {self.manifest.build[:16]}",
                fix=fix,
            )
        if (own.index, own.count) != (index, count):
            raise ArtifactError(
                "The parts are in the wrong order.",
                where=part.path,
                found=f"part {own.index} of {own.count}, layers {own.first_layer} to {own.last_layer}",
                expected=f"part {index} of {count}",
                fix=fix,
            )


def decisive_files(part: BuildArtifact) -> tuple[FileEntry, ...]:
    """The files that decide what a part is."""
    return _decisive(part.manifest)


def _decisive(manifest: BuildManifest) -> tuple[FileEntry, ...]:
    """A CPU's engine is the graph itself; those of GPUs are made later, and anew on other machines."""
    engines = manifest.engines if manifest.backend == "onnxruntime" else ()
    graphs = (FileEntry(file=entry.file, sha256=entry.sha256, bytes=entry.bytes) for entry in engines)
    return (*graphs, *manifest.files)


def _require_content(part: BuildArtifact, files: tuple[FileEntry, ...] | list[FileEntry]) -> None:
    for entry in files:
        if (found := sha256_of_file(part.path / entry.file)) != entry.sha256:
            raise _changed(part.path / entry.file, f"SHA-256 {found}", f"SHA-256 {entry.sha256}")


def _changed(where: Path, found: str, expected: str) -> ArtifactError:
    return ArtifactError(
        "A part changed since it was built.",
        where=where,
        found=found,
        expected=expected,
        fix="copy the part again, or build again",
    )
