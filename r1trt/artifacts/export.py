"""An export directory: the graph, its manifest, the tokenizer's files, and copied weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from r1trt.artifacts.base import Manifest
from r1trt.artifacts.directory import ModelDirectory
from r1trt.artifacts.fields import Count, PathText, RelativePath, Sha256, Size, TimeNs
from r1trt.artifacts.manifest import Kind

LOCAL_WEIGHTS = "."


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A file of the checkpoint.

    Attributes:
        name: Path below the weights' base directory.
        bytes: Its size.
        header_sha256: Hash of its header, in hex.
        modified_ns: When it was modified last, in nanoseconds since 1970; None in older manifests. Copies of
            a file differ in it, so that it decides nothing.
    """

    name: RelativePath
    bytes: Size
    header_sha256: str
    modified_ns: TimeNs | None = None


@dataclass(frozen=True, kw_only=True)
class ReadWeightFile(WeightFile):
    """A file of the checkpoint that a build was made from.

    Attributes:
        sha256: Hash of its content, in hex; None if the build needed nothing of it, and in older manifests.
    """

    sha256: Sha256 | None = None


@dataclass(frozen=True, kw_only=True)
class ExportWeights:
    """Where an export's weights lie.

    Attributes:
        base_directory: An absolute path, or "." for the export directory itself.
        files: All of them.
    """

    base_directory: PathText
    files: tuple[WeightFile, ...]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)


@dataclass(frozen=True, kw_only=True)
class ExportManifest(Manifest):
    """What an export is.

    Attributes:
        model_name: Name of the export's directory when it was made.
        r1trt: Version that made it.
        family: Family of the model.
        checkpoint: Hugging Face directory that it was made from.
        capacity: Rows of the KV cache, in tokens.
        last_token_logits: Whether the graph gives the logits of each sequence's last token only.
        weights: Where the weights lie.
        config: The checkpoint's config.json.
        config_sha256: Hash of that file, in hex.
        nodes: Nodes of the graph.
        notes: Where the export deviates from what the checkpoint says.
        parameters: Elements of all weights.
    """

    KIND: ClassVar[Kind] = "export"

    model_name: str
    r1trt: str = ""
    family: str = ""
    checkpoint: PathText
    capacity: Count
    last_token_logits: bool = False
    weights: ExportWeights
    config: Mapping[str, Any]
    config_sha256: str = ""
    nodes: Size = 0
    notes: tuple[str, ...] = field(default=())
    parameters: Size = 0


@dataclass(frozen=True, kw_only=True)
class ExportDirectory(ModelDirectory):
    """Names of the files in an export directory."""

    @property
    def graph(self) -> Path:
        """The ONNX graph, which points to its weights."""
        return self.path / "model.onnx"

    @property
    def weight_hashes(self) -> Path:
        """Hashes of the weights' contents, once a build has read them."""
        return self.path / "weight_hashes.json"


@dataclass(frozen=True, kw_only=True)
class ExportArtifact(ExportDirectory):
    """An export that is there.

    Attributes:
        manifest: What it is.
    """

    manifest: ExportManifest

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads an export's manifest.

        Raises:
            ArtifactError: The directory is not an export, or its manifest is not valid.
        """
        return cls(path=path, manifest=ExportManifest.read(path))

    @property
    def weight_base(self) -> Path:
        """Directory that the names of the weight files are relative to."""
        named = self.manifest.weights.base_directory
        return self.path if named == LOCAL_WEIGHTS else Path(named)
