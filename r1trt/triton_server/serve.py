"""`r1trt serve`: an engine, or a repository, behind the bundled server on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from r1trt.artifacts import BuildArtifact, ExportArtifact, RepositoryArtifact, read_artifact
from r1trt.artifacts.build import BuildManifest
from r1trt.artifacts.repository import ServedEngine, ServedModelDirectory
from r1trt.cache import CACHE_VARIABLE, cache_directory
from r1trt.door.limits import DoorLimits
from r1trt.errors import BuildError, ConfigError, UnavailableError, UsageError
from r1trt.lifetime.temporary import temporary_directory
from r1trt.machine import allow_descriptors
from r1trt.openai.config import OpenAiConfig, require_installed
from r1trt.package.generation import write_generation_model
from r1trt.package.limits import GenerationLimits
from r1trt.package.model_check import require_model_name
from r1trt.progress import Progress, ignore
from r1trt.runtime.sampling_defaults import SamplingDefaults, sampling_defaults_from_dir
from r1trt.triton_server.config import HOST, ServerConfig
from r1trt.triton_server.environment import serving_environment
from r1trt.triton_server.kept_log import kept_log
from r1trt.triton_server.plain_path import require_plain_path
from r1trt.triton_server.restarting import RestartingServer

_DESCRIPTORS = 8192
"""For the connections that the front door allows, and the server's own."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What `served_model` starts.

    Attributes:
        engine: Build directory for a CPU, or a model repository that `r1trt triton` wrote for one.
        model_name: Name that clients ask for; None takes the checkpoint's. A repository has its own.
        http_port: For the HTTP protocol.
        grpc_port: For the gRPC protocol.
        metrics_port: For Prometheus metrics.
        openai_port: For OpenAI's clients; None does not serve them.
        openai_host: Address that is listened on for them.
        api_keys: One of which they have to send; none lets everybody in who reaches the address.
        limits: How requests share the model; None means the defaults. A repository has its own.
    """

    engine: Path
    model_name: str | None = None
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    openai_port: int | None = None
    openai_host: str = HOST
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    limits: GenerationLimits | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for what is said of an interface that is not served."""
        if self.openai_port is None and (self.openai_host != HOST or self.api_keys):
            raise UsageError(
                "OpenAI's interface is not served.",
                found="--openai-host or --api-key-file",
                fix="say where, with --openai-port",
            )


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model that a running server answers for.

    Attributes:
        server: Its process.
        name: What clients ask for.
        http: Address of the HTTP protocol.
        grpc: Address of the gRPC protocol.
        metrics: Address of the metrics.
        openai: Address for OpenAI's clients; None where they are not served.
        sampling: How tokens are chosen where a request does not say.
    """

    server: RestartingServer
    name: str
    http: str
    grpc: str
    metrics: str
    openai: str | None
    sampling: SamplingDefaults

    @property
    def examples(self) -> list[str]:
        """Calls for a shell."""
        url = f"http://{self.http}/v2/models/{self.name}"
        kind = "-H 'Content-Type: application/json'"
        question = '"text_input": "What is the capital of France?", "chat": true, "max_tokens": 64'
        examples = [
            f"curl -s {url}/generate {kind} -d '{{{question}}}'",
            f"curl -sN {url}/generate_stream {kind} -d '{{{question}, \"stream\": true}}'",
            f"curl -s http://{self.metrics}/metrics | grep ^r1trt_",
        ]
        if self.openai is not None:
            chat = f'"model": "{self.name}", "messages": [{{"role": "user", "content": "Hello"}}]'
            examples.append(f"curl -s http://{self.openai}/v1/chat/completions {kind} -d '{{{chat}}}'")
        return examples


@contextmanager
def served_model(
    config: ServeConfig, progress: Progress = ignore, log: Callable[[str], None] = lambda text: None
) -> Iterator[ServedModel]:
    """Starts the bundled server with one engine, and stops it at the end.

    Args:
        config: What to serve.
        progress: Told of each phase.
        log: Told of restarts.

    Yields:
        The model, once it is ready.

    Raises:
        R1TrtError: The engine cannot be served, or the server does not start.
        UnavailableError: The engine is for a GPU, or the bundled server cannot be installed.
    """
    artifact = _servable_artifact(config)
    require_plain_path(cache_directory(), fix=f"set {CACHE_VARIABLE} to a folder with another name")
    with temporary_directory("serve") as directory:
        require_plain_path(directory, fix="set TMPDIR to a folder with another name")
        model = _model_directory(artifact, config, directory / "repository")
        sampling = sampling_defaults_from_dir(model.engine)
        limits = DoorLimits.for_capacity(_capacity(artifact))
        server_config = _server_config(config, model, directory, limits)
        # Last, since it may take minutes: everything that can be refused has been.
        environment = serving_environment(progress)
        if server_config.openai is not None and server_config.openai.note is not None:
            log(server_config.openai.note)
        progress("starting the server", 0, 0)
        allow_descriptors(_DESCRIPTORS)
        with kept_log(server_config.log), RestartingServer(environment, server_config, limits, log) as server:
            yield ServedModel(
                server=server,
                name=model.path.name,
                http=f"{HOST}:{config.http_port}",
                grpc=f"{HOST}:{config.grpc_port}",
                metrics=f"{HOST}:{config.metrics_port}",
                openai=None if server_config.openai is None else server_config.openai.address,
                sampling=sampling,
            )


def _model_directory(
    artifact: BuildArtifact | RepositoryArtifact, config: ServeConfig, repository: Path
) -> ServedModelDirectory:
    """Makes the repository that the server is given, and returns its model.

    The server starts models through a shell, with their paths as they stand: so what is served is reached by
    a link. It is to a directory, for ONNX Runtime refuses weights that a link leads out of theirs.
    """
    if isinstance(artifact, RepositoryArtifact):
        repository.symlink_to(artifact.path.resolve())
        return ServedModelDirectory(path=repository / require_model_name(artifact.manifest.model_name))
    name = require_model_name(config.model_name or artifact.manifest.source.model_name)
    model = ServedModelDirectory(path=repository / name)
    write_generation_model(model, artifact.manifest, config.limits or GenerationLimits())
    model.engine.symlink_to(artifact.path.resolve())
    return model


def _server_config(
    config: ServeConfig, model: ServedModelDirectory, directory: Path, limits: DoorLimits
) -> ServerConfig:
    (directory / "sockets").mkdir()
    return ServerConfig(
        repository=model.path.parent,
        log=directory / "server.log",
        sockets=directory / "sockets",
        http_port=config.http_port,
        grpc_port=config.grpc_port,
        metrics_port=config.metrics_port,
        openai=_openai_config(config, model.path.name, limits),
    )


def _openai_config(config: ServeConfig, model: str, limits: DoorLimits) -> OpenAiConfig | None:
    if config.openai_port is None:
        return None
    require_installed()
    return OpenAiConfig(
        models=(model,),
        port=config.openai_port,
        host=config.openai_host,
        keys=config.api_keys,
        limits=limits,
    )


def _capacity(artifact: BuildArtifact | RepositoryArtifact) -> int:
    engine = artifact.manifest.engine if isinstance(artifact, RepositoryArtifact) else artifact.manifest
    return engine.capacity or 0


def _servable_artifact(config: ServeConfig) -> BuildArtifact | RepositoryArtifact:
    artifact = read_artifact(config.engine)
    if isinstance(artifact, ExportArtifact):
        raise BuildError("This is an export, not a build.", where=config.engine, fix="r1trt build it first")
    if isinstance(artifact, RepositoryArtifact):
        _require_no_limits(config)
        _require_servable(artifact.manifest.engine, config.engine)
    else:
        artifact.require_finished()
        _require_servable(artifact.manifest, config.engine)
    return artifact


def _require_no_limits(config: ServeConfig) -> None:
    if config.model_name is not None or config.limits is not None:
        raise ConfigError(
            "A repository has its own name and limits.",
            where=config.engine,
            fix="edit its config.pbtxt, or write it again with r1trt triton",
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
