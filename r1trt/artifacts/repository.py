"""A Triton model repository."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

from r1trt.arch import Backend, BuildPrecision
from r1trt.artifacts.base import Manifest
from r1trt.artifacts.build import ArchName
from r1trt.artifacts.fields import Count, FileName, RelativePath, Size, Sm
from r1trt.artifacts.manifest import Kind


@dataclass(frozen=True, kw_only=True)
class RepositoryFile:
    """A file of the repository.

    Attributes:
        file: Its path below the repository.
        bytes: Its size.
        sha256: Hash of its contents, in hex.
    """

    file: RelativePath
    bytes: Size
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ServedEngine:
    """What the repository's engine is; as in `BuildManifest`."""

    arch: ArchName
    sms: tuple[Sm, ...]
    backend: Backend
    precision: BuildPrecision
    cache: bool
    capacity: Count | None
    max_batch_size: Count
    embeds_plugins: bool
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class RepositoryModel:
    """A model of a repository.

    Attributes:
        name: What clients ask for; its directory has this name.
        kind: Whether it generates text or scores prompts.
        r1trt: Version that wrote it.
        library: Library that runs the engine.
        library_version: Its version; None where the build does not say.
        plugin_library: TensorRT plugins that the server has to load first, below the repository; None where
            it needs none, or the model loads them itself.
        files: Its files, without the Python modules that serve.
        engine: What its engine is.
    """

    name: FileName
    kind: Literal["generation", "scoring"]
    r1trt: str = ""
    library: str
    library_version: str | None = None
    plugin_library: RelativePath | None = None
    files: tuple[RepositoryFile, ...]
    engine: ServedEngine


@dataclass(frozen=True, kw_only=True)
class RepositoryManifest(Manifest):
    """What a repository is.

    Attributes:
        models: Its models, by name; one at least.
        documents: What it tells the one who runs it: README, client programs.
    """

    KIND: ClassVar[Kind] = "triton"

    models: tuple[RepositoryModel, ...]
    documents: tuple[RepositoryFile, ...]


@dataclass(frozen=True, kw_only=True)
class RepositoryArtifact:
    """A repository that is there.

    Attributes:
        path: Where.
        manifest: What it is.
    """

    path: Path
    manifest: RepositoryManifest

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a repository's manifest.

        Raises:
            ArtifactError: The directory is not a repository, or its manifest is not valid.
        """
        return cls(path=path, manifest=RepositoryManifest.read(path))


@dataclass(frozen=True, kw_only=True)
class ServedModelDirectory:
    """Names of the files in the directory of one model of a repository; the directory's name is the model's.

    Attributes:
        path: Where.
        number: The version that is meant; a new model has one.
    """

    path: Path
    number: str = "1"

    @property
    def configuration(self) -> Path:
        """Triton's model configuration, as protobuf text."""
        return self.path / "config.pbtxt"

    @property
    def warmup(self) -> Path:
        """Inputs of the calls that Triton makes before it reports the model ready."""
        return self.path / "warmup"

    @property
    def version(self) -> Path:
        """The version's directory."""
        return self.path / self.number

    @property
    def program(self) -> Path:
        """What Triton's Python backend runs."""
        return self.version / "model.py"

    @property
    def code(self) -> Path:
        """The Python package that the program imports."""
        return self.version / "python"

    @property
    def pinned_prompt(self) -> Path:
        """Text of the system prompt that stays in the cache; the file is there where one does."""
        return self.version / "pinned_prompt.txt"

    @property
    def engine(self) -> Path:
        """A directory like a build's, or a link to one."""
        return self.version / "engine"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's files, for the clients of a scoring model."""
        return self.path / "tokenizer"
