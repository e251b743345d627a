"""A build directory: engines, what they were made from, and what they accept."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from r1trt.arch import ARCHITECTURES, Backend, BuildPrecision
from r1trt.artifacts.base import Manifest
from r1trt.artifacts.directory import ModelDirectory
from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.experts import ExternalExperts
from r1trt.artifacts.export import ReadWeightFile
from r1trt.artifacts.fields import Check, Count, FileName, PathText, Sha256, Size, Sm
from r1trt.artifacts.manifest import Kind
from r1trt.errors import BuildError
from r1trt.text import listing

PLUGIN_LIBRARY_FILE = "libr1trt_plugins.so"

Status = Literal["complete", "needs-engine"]
ArchName = Annotated[str, Check(expected=" | ".join(ARCHITECTURES), holds=ARCHITECTURES.__contains__)]


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file of the directory.

    Attributes:
        file: Its name.
        sha256: Hash of its contents, in hex.
        bytes: Its size.
    """

    file: FileName
    sha256: str = ""
    bytes: Size = 0


@dataclass(frozen=True, kw_only=True)
class EngineEntry(FileEntry):
    """An engine.

    Attributes:
        sm: Compute capability that it is for; None for a CPU.
    """

    sm: Sm | None


@dataclass(frozen=True, kw_only=True)
class BuildSource:
    """What a build was made from.

    Attributes:
        model_name: The model's name.
        checkpoint: Hugging Face directory.
        export: Export directory.
        model_hash: Hash of the graph's structure and weights' names, in hex; that of the precision plan.
        model_sha256: Hash of the exported graph's file, in hex.
        weights: The checkpoint's files, with the hashes of what was read.
    """

    model_name: str
    checkpoint: PathText | None = None
    export: PathText | None = None
    model_hash: str | None = None
    model_sha256: str | None = None
    weights: tuple[ReadWeightFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PluginsEntry:
    """The plugin library that an engine was built with.

    Attributes:
        file: Its name.
        sha256: Hash of its contents, in hex.
        operators: Operators that it has plugins for.
        sms: Compute capabilities that it has code for.
        headers: Version of NVIDIA's headers that it was compiled with; "own" for the project's.
        nvcc: Version of the CUDA compiler.
        embedded: Whether the engines carry it.
    """

    file: str = ""
    sha256: str = ""
    operators: tuple[str, ...] = ()
    sms: tuple[Sm, ...] = ()
    headers: str = ""
    nvcc: str = ""
    embedded: bool


@dataclass(frozen=True, kw_only=True)
class PartOf:
    """Which part of a model a build is.

    Attributes:
        build: What all parts of one model have in common, in hex.
        index: Its place, from 0.
        count: How many parts there are.
        first_layer: Its first decoder layer; the first part has the embedding in front of it.
        last_layer: Its last one; the last part has the head behind it.
    """

    build: Sha256
    index: Size
    count: Count
    first_layer: Size
    last_layer: Size

    def __post_init__(self) -> None:
        if self.index >= self.count or self.first_layer > self.last_layer:
            raise ValueError(
                f"part {self.index} of {self.count}, layers {self.first_layer} to {self.last_layer}"
            )


@dataclass(frozen=True, kw_only=True)
class BuildManifest(Manifest):
    """What a build is.

    Attributes:
        status: "needs-engine" for a build that stopped for want of a GPU or a library.
        arch: The `--arch` that it is for.
        sms: Compute capabilities that it is for; empty for a CPU.
        backend: Its builder.
        precision: Precision of its plan.
        capacity: Rows of the KV cache, in tokens; None without a cache.
        cache: Whether the engine has a KV cache.
        kv_cache_token_bytes: What a token takes in the caches of all layers; 0 without a cache, and
            where an earlier version built.
        max_batch_size: Rows of a call.
        max_input_len: Tokens of a row in a call.
        last_token_logits: Whether a call gives the logits of each row's last token only.
        engines: One for each of `sms`, or the CPU's; none while unfinished.
        source: What it was made from.
        versions: Versions of r1trt and of the libraries that it went through.
        precision_summary: Number of layers by the type of their weights.
        files: The files that an engine can be made from.
        built_at: Time, in UTC.
        plan_sha256: Hash of the precision plan's file, in hex.
        plugins: The plugin library; None without plugins.
        plugin_libraries: Libraries to load in front of the engine.
        network_check: Number of layers by how the network obeys the plan; empty without a network.
        external_experts: Inputs of the engine that hold its experts, and what they are made of; None where
            all weights are constants.
        part: Which part of a model this is; None for a whole one.
        parts: Parts that a whole model consists of, each a build in a directory of its own; 0 where it has an
            engine of its own.
    """

    KIND: ClassVar[Kind] = "engine"

    status: Status
    arch: ArchName
    sms: tuple[Sm, ...]
    backend: Backend
    precision: BuildPrecision
    capacity: Count | None
    cache: bool
    max_batch_size: Count
    max_input_len: Count
    last_token_logits: bool = False
    kv_cache_token_bytes: Size = 0
    engines: tuple[EngineEntry, ...]
    source: BuildSource
    versions: Mapping[str, str]
    precision_summary: Mapping[str, Size] = field(default_factory=dict)
    files: tuple[FileEntry, ...] = ()
    built_at: str = ""
    plan_sha256: str | None = None
    plugins: PluginsEntry | None = None
    plugin_libraries: tuple[FileName, ...] = ()
    network_check: Mapping[str, Size] = field(default_factory=dict)
    external_experts: ExternalExperts | None = None
    part: PartOf | None = None
    parts: Size = 0

    def __post_init__(self) -> None:
        if self.cache and self.capacity is None:
            raise ValueError("capacity: None, expected the KV cache's size where cache is true")
        for_gpu = [engine.sm is not None for engine in self.engines]
        if any(for_gpu) if self.backend == "onnxruntime" else not all(for_gpu):
            raise ValueError(f"engines: not what the backend {self.backend} builds")

    @property
    def kv_cache_bytes(self) -> int:
        """What the caches of all rows take."""
        return self.kv_cache_token_bytes * (self.capacity or 0) * self.max_batch_size

    @property
    def entries(self) -> tuple[FileEntry, ...]:
        """Engines, and the files that they can be made from."""
        return (*self.engines, *self.files)

    @property
    def is_finished(self) -> bool:
        """Whether the engines are there, its own or its parts'."""
        return bool(self.engines) or (self.parts > 0 and self.status == "complete")

    @property
    def embeds_plugins(self) -> bool:
        """Whether the engines carry code for the CPU, which TensorRT runs only where it is allowed to."""
        return self.plugins is not None and self.plugins.embedded


@dataclass(frozen=True, kw_only=True)
class BuildDirectory(ModelDirectory):
    """Names of the files in a build directory."""

    @property
    def precision_plan(self) -> Path:
        """The precision plan."""
        return self.path / "precision.yaml"

    @property
    def typed_graph(self) -> Path:
        """The graph that a GPU's builder gets."""
        return self.path / "typed.onnx"

    @property
    def simulated_graph(self) -> Path:
        """The typed graph's arithmetic for ONNX Runtime's CPU."""
        return self.path / "simulated.onnx"

    @property
    def weights(self) -> Path:
        """The weights that the graphs point to."""
        return self.path / "weights.safetensors"

    @property
    def profiles(self) -> Path:
        """Input shapes that the engine accepts."""
        return self.path / "profiles.json"

    @property
    def layers(self) -> Path:
        """The precision plan against the parsed network, layer by layer."""
        return self.path / "layers.json"

    @property
    def cpu_engine(self) -> Path:
        """The graph that ONNX Runtime runs."""
        return self.path / "cpu.onnx"

    @property
    def plugin_library(self) -> Path:
        """The plugin library that the engines need or carry."""
        return self.path / PLUGIN_LIBRARY_FILE

    def engine(self, sm: int) -> Path:
        """The engine for a compute capability."""
        return self.path / f"engine.sm{sm}.plan"


@dataclass(frozen=True, kw_only=True)
class BuildArtifact(BuildDirectory):
    """A build that is there.

    Attributes:
        manifest: What it is.
    """

    manifest: BuildManifest

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a build's manifest.

        Raises:
            ArtifactError: The directory is not a build, or its manifest is not valid.
        """
        return cls(path=path, manifest=BuildManifest.read(path))

    @property
    def damaged_files(self) -> dict[str, str]:
        """Why files are not what the manifest says, by name: those that are missing, or of another size.

        Contents are not compared: hashing an engine takes as long as reading it.
        """
        found = {}
        for entry in self.manifest.entries:
            path = self.path / entry.file
            if not path.is_file():
                found[entry.file] = "missing"
            elif (size := path.stat().st_size) != entry.bytes:
                found[entry.file] = f"{size} bytes: damaged"
        return found

    def require_finished(self) -> None:
        """Raises BuildError where the build has no engine yet."""
        if not self.manifest.is_finished:
            raise BuildError(
                "This build is not finished: it has no engine.",
                where=self.path,
                fix=f"r1trt build {shlex.quote(str(self.path))}",
            )

    def require_whole(self) -> None:
        """Raises ArtifactError, which lists them, where files are missing or of another size."""
        if damaged := self.damaged_files:
            sizes = {entry.file: entry.bytes for entry in self.manifest.entries}
            raise ArtifactError(
                "The build is incomplete.",
                where=self.path,
                found=listing(
                    [f"{name}: {why}, {sizes[name]} bytes expected" for name, why in damaged.items()]
                ),
                fix="copy the directory again, or build again",
            )

    def require_one_engine(self, use: str) -> None:
        """Raises BuildError for a model in parts, and for a part of one, where one engine is needed.

        Args:
            use: What it is needed for, as in "profiling".
        """
        if self.manifest.parts or self.manifest.part is not None:
            found = "a part of a model" if self.manifest.part else f"{self.manifest.parts} parts"
            raise BuildError(
                f"For {use} a model has to be one engine.",
                where=self.path,
                found=found,
                fix="build the export without --parts, and name that directory",
            )

    @property
    def loaded_bytes(self) -> int:
        """What the weights take in memory: those beside the graph, and experts that are its inputs."""
        experts = self.manifest.external_experts
        return self.weights.stat().st_size + (0 if experts is None else experts.bytes)

    @property
    def engines(self) -> dict[int | None, Path]:
        """The engines by compute capability; None stands for the CPU."""
        return {entry.sm: self.path / entry.file for entry in self.manifest.engines}

    @property
    def plugin_libraries(self) -> tuple[Path, ...]:
        """Libraries to load in front of the engine."""
        return tuple(self.path / name for name in self.manifest.plugin_libraries)
