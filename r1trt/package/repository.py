"""A Triton model repository for engines: everything that a server needs, and nothing of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from r1trt import __version__
from r1trt.artifacts.atomic import atomic_directory
from r1trt.artifacts.disk import copy_file, require_free_space, sha256_of_file
from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.manifest import MANIFEST_FILE
from r1trt.artifacts.repository import (
    RepositoryArtifact,
    RepositoryFile,
    RepositoryManifest,
    RepositoryModel,
    ServedEngine,
    ServedModelDirectory,
)
from r1trt.errors import BuildError, ConfigError
from r1trt.package.bundle import EngineBundle, bundle_from_builds, require_library_version
from r1trt.package.documents import write_documents
from r1trt.package.generation import write_generation_model
from r1trt.package.limits import GenerationLimits
from r1trt.package.model_check import check_model_directory, require_model_name
from r1trt.package.scoring import require_loadable, write_scoring_model
from r1trt.plugin_tools.library import LIBRARY_FILE


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """What `repository_from_engine` makes.

    Attributes:
        engines: Build directories of one model; more than one where each is for other GPUs.
        output: Model repository to write; to one that is there the model is added.
        model_name: Name that clients ask for; None takes the checkpoint's.
        trt_version: TensorRT version of the server that it is for; None trusts the reader of the README.
        plugin_library: TensorRT plugins; None takes those of the builds, or some that were built before.
        trust_plugins: A server may run the builds' own code, even if this machine did not make it.
        limits: How requests share an engine with a KV cache.
    """

    engines: tuple[Path, ...]
    output: Path
    model_name: str | None = None
    trt_version: str | None = None
    plugin_library: Path | None = None
    trust_plugins: bool = False
    limits: GenerationLimits = field(default_factory=GenerationLimits)

    def __post_init__(self) -> None:
        """Raises ConfigError for a name that Triton does not accept, and where there is no engine."""
        if self.model_name is not None:
            require_model_name(self.model_name)
        if not self.engines:
            raise ConfigError("There is no engine to serve.")


def repository_from_engine(config: TritonConfig) -> Path:
    """Writes a model repository: configuration, engine, tokenizer, client programs, README and manifest.

    An engine with a KV cache becomes a model that generates text; one without becomes a stateless model that
    gives the logits of whole prompts. Other models of a repository that is there already stay as they are.

    Returns:
        The repository's path, which is `config.output`.

    Raises:
        ArtifactError: A directory is not a build, or the output is something else's.
        BuildError: The engine is of a kind that no Triton backend loads, the server's TensorRT is another, or
            files or plugins are missing.
        ConfigError: The model's name cannot be a Triton model's, or a limit is beyond the engine's.
    """
    bundle = bundle_from_builds(config.engines, config.plugin_library, trust_plugins=config.trust_plugins)
    if config.trt_version is not None:
        require_library_version(bundle, config.trt_version)
    if not bundle.manifest.cache:
        require_loadable(bundle)
    name = require_model_name(config.model_name or bundle.manifest.source.model_name)
    require_free_space(config.output.parent, bundle.bytes)
    with atomic_directory(config.output, kind=RepositoryManifest.KIND) as repository:
        others = [model for model in _models_of(config.output) if model.name != name]
        _require_one_library(bundle, others, config.output)
        for other in others:
            _keep(config.output / other.name, repository / other.name)
        directory = ServedModelDirectory(path=repository / name)
        _write_model(directory, bundle, config.limits)
        check_model_directory(directory.path)
        models = sorted([*others, _entry(directory, bundle)], key=lambda model: model.name)
        write_documents(repository, models)
        documents = [path for path in sorted(repository.iterdir()) if path.is_file()]
        RepositoryManifest(models=tuple(models), documents=_file_entries(repository, documents)).write(
            repository
        )
    return config.output


def _models_of(output: Path) -> tuple[RepositoryModel, ...]:
    """The models of a repository that is there; none where there is none."""
    if not output.is_dir() or not any(output.iterdir()):
        return ()
    try:
        manifest = RepositoryArtifact.read(output).manifest
    except ArtifactError as error:
        fix = "remove it, or choose another directory with -o"
        raise ArtifactError(error.message, **{**error.details, "fix": fix}) from error
    _require_nothing_else(output, manifest)
    return manifest.models


def _require_nothing_else(output: Path, manifest: RepositoryManifest) -> None:
    """Refuses what the repository's manifest does not list, which would be lost, and models that are gone."""
    listed = {MANIFEST_FILE, *(model.name for model in manifest.models)}
    listed |= {str(document.file) for document in manifest.documents}
    there = {path.name for path in output.iterdir() if not path.name.startswith(".")}
    if others := sorted(there - listed):
        raise ArtifactError(
            "The repository holds what was not written by r1trt.",
            where=output,
            found=", ".join(others[:5]),
            fix="move it elsewhere, or choose another directory with -o",
        )
    if gone := sorted({model.name for model in manifest.models} - there):
        raise ArtifactError(
            "A model of the repository is gone.",
            where=output,
            found=f"no directory {gone[0]}",
            fix="write the repository anew in another directory",
        )


def _require_one_library(bundle: EngineBundle, others: Sequence[RepositoryModel], output: Path) -> None:
    """Refuses an engine that needs another version of TensorRT than the repository's: a server has one."""
    for other in others:
        if (
            other.library == bundle.library
            and other.library_version != bundle.library_version
            and other.engine.backend != "onnxruntime"
        ):
            raise BuildError(
                "The models need different TensorRT versions, and a server has one.",
                where=output,
                found=f"{bundle.library} {bundle.library_version}",
                expected=f"{other.library} {other.library_version}, as for {other.name}",
                fix="write another repository, for another server",
            )


def _keep(old: Path, new: Path) -> None:
    """Takes a model over, without copying its engine where the file system has hard links."""
    shutil.copytree(
        old, new, symlinks=True, copy_function=_linked, ignore=shutil.ignore_patterns("__pycache__")
    )


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _write_model(directory: ServedModelDirectory, bundle: EngineBundle, limits: GenerationLimits) -> None:
    library = bundle.plugin_library
    if not bundle.manifest.cache:
        write_scoring_model(directory, bundle)
        if library is not None:
            # Not in the version: the server loads it for all TensorRT models at its start.
            copy_file(library, directory.path / LIBRARY_FILE)
        return
    write_generation_model(directory, bundle.source.path, bundle.manifest, limits)
    directory.engine.mkdir()
    for path in bundle.engine_files:
        copy_file(path, directory.engine / path.name)
    bundle.source.copy_companions_to(directory.engine)
    if library is not None:
        copy_file(library, directory.engine / LIBRARY_FILE)
    plugins = () if library is None else (LIBRARY_FILE,)
    replace(bundle.manifest, plugin_libraries=plugins).write(directory.engine)


def _entry(directory: ServedModelDirectory, bundle: EngineBundle) -> RepositoryModel:
    repository, name = directory.path.parent, directory.path.name
    served = {entry.name: getattr(bundle.manifest, entry.name) for entry in fields(ServedEngine)}
    at_start = bundle.plugin_library is not None and not bundle.manifest.cache
    files = [
        path
        for path in sorted(directory.path.rglob("*"))
        if path.is_file() and not path.is_relative_to(directory.code)
    ]
    return RepositoryModel(
        name=name,
        kind="generation" if bundle.manifest.cache else "scoring",
        r1trt=__version__,
        library=bundle.library,
        library_version=bundle.library_version,
        plugin_library=f"{name}/{LIBRARY_FILE}" if at_start else None,
        files=_file_entries(repository, files),
        engine=ServedEngine(**served),
    )


def _file_entries(repository: Path, files: Sequence[Path]) -> tuple[RepositoryFile, ...]:
    return tuple(
        RepositoryFile(
            file=path.relative_to(repository).as_posix(),
            bytes=path.stat().st_size,
            sha256=sha256_of_file(path),
        )
        for path in files
    )
