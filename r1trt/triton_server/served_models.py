"""What is served: engines and repositories, whose models stand in one repository of links for the server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from r1trt.artifacts import BuildArtifact, ExportArtifact, RepositoryArtifact, read_artifact
from r1trt.artifacts.build import BuildManifest
from r1trt.artifacts.repository import ServedEngine, ServedModelDirectory
from r1trt.errors import BuildError, ConfigError, UnavailableError, UsageError
from r1trt.machine import cores
from r1trt.package.generation import generation_config, write_generation_model
from r1trt.package.limits import GenerationLimits
from r1trt.package.model_check import require_model_name


@dataclass(frozen=True, kw_only=True)
class EngineToServe:
    """A directory that somebody wants served.

    Attributes:
        path: Build directory for a CPU, or a model repository that `r1trt triton` wrote for one.
        name: Name that clients ask for; None takes the checkpoint's. A repository has its own.
    """

    path: Path
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelToServe:
    """A model of the server's repository.

    Attributes:
        name: What clients ask for.
        origin: Where it comes from.
        capacity: Tokens that a request may have.
        build: The build that it is of; None where it stands in a repository, at `origin`, as it is served.
    """

    name: str
    origin: Path
    capacity: int
    build: BuildArtifact | None = None


def models_to_serve(
    engines: Sequence[EngineToServe], limits: GenerationLimits | None
) -> tuple[ModelToServe, ...]:
    """Reads what is to be served, and refuses what cannot be.

    Args:
        engines: One at least.
        limits: How requests share each of the models; a repository's have their own.

    Raises:
        R1TrtError: A directory is no build or repository, or for a GPU, or without a KV cache, or two models
            have one name.
    """
    models = tuple(model for engine in engines for model in _models_of(engine, limits))
    _require_distinct(models)
    for model in models:
        if model.build is not None:
            generation_config(model.name, model.build.manifest, _share(limits, len(models)))
    return models


def write_repository(
    repository: Path, models: Sequence[ModelToServe], limits: GenerationLimits | None
) -> tuple[ServedModelDirectory, ...]:
    """Makes the repository that the server is given.

    The server starts models through a shell, with their paths as they stand: so what is served is reached by
    links. They are to directories, for ONNX Runtime refuses weights that a link leads out of theirs.

    Args:
        repository: Where; it does not exist yet.
        models: What `models_to_serve` gave.
        limits: As there.
    """
    repository.mkdir()
    directories = []
    for model in models:
        directory = ServedModelDirectory(path=repository / model.name)
        if model.build is None:
            directory.path.symlink_to(model.origin.resolve())
        else:
            shared = _share(limits, len(models))
            write_generation_model(directory, model.build.path, model.build.manifest, shared)
            directory.engine.symlink_to(model.build.path.resolve())
        directories.append(directory)
    return tuple(directories)


def _share(limits: GenerationLimits | None, models: int) -> GenerationLimits:
    """A model's part: threads of several on the same cores hold each other up at every operator's end."""
    limits = limits or GenerationLimits()
    if models == 1 or limits.threads is not None:
        return limits
    return replace(limits, threads=max(cores() // models, 1))


def _models_of(engine: EngineToServe, limits: GenerationLimits | None) -> Iterator[ModelToServe]:
    artifact = read_artifact(engine.path)
    if isinstance(artifact, ExportArtifact):
        raise BuildError("This is an export, not a build.", where=engine.path, fix="r1trt build it first")
    if isinstance(artifact, RepositoryArtifact):
        _require_nothing_said(engine, limits)
        for model in artifact.manifest.models:
            origin = artifact.path / require_model_name(model.name)
            _require_servable(model.engine, origin)
            yield ModelToServe(name=model.name, origin=origin, capacity=model.engine.capacity or 0)
        return
    artifact.require_finished()
    _require_servable(artifact.manifest, engine.path)
    name = require_model_name(engine.name or artifact.manifest.source.model_name)
    capacity = artifact.manifest.capacity or 0
    yield ModelToServe(name=name, origin=artifact.path, capacity=capacity, build=artifact)


def _require_nothing_said(engine: EngineToServe, limits: GenerationLimits | None) -> None:
    if engine.name is not None or limits is not None:
        raise ConfigError(
            "A repository has its own name and limits.",
            where=engine.path,
            fix="edit its config.pbtxt, or write it again with r1trt triton",
        )


def _require_distinct(models: Sequence[ModelToServe]) -> None:
    by_name: dict[str, ModelToServe] = {}
    for model in models:
        other = by_name.setdefault(model.name, model)
        if other is not model:
            raise UsageError(
                "Two models have one name.",
                where=f"{other.origin} and {model.origin}",
                found=model.name,
                fix=f"choose another for one of them: another-name={model.origin}",
            )


def _require_servable(engine: BuildManifest | ServedEngine, where: Path) -> None:
    if engine.backend != "onnxruntime":
        raise UnavailableError(
            "The bundled server runs engines for a CPU only.",
            where=where,
            found=f"backend {engine.backend}",
            fix="start Triton's container with what `r1trt triton` writes; the README there has the command",
        )
    if not engine.cache:
        raise BuildError(
            "A scoring engine cannot generate: it has no KV cache.",
            where=where,
            fix="build without --no-cache; `r1trt triton` writes a repository for scoring",
        )
