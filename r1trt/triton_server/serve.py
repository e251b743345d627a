"""`r1trt serve`: engines, and repositories, behind one bundled server on this machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from r1trt.cache import CACHE_VARIABLE, cache_directory
from r1trt.cluster.connection import require_cluster
from r1trt.door.limits import DoorLimits
from r1trt.errors import UsageError
from r1trt.lifetime.ending import drained_at_ending
from r1trt.lifetime.temporary import temporary_directory
from r1trt.machine import allow_descriptors
from r1trt.openai.config import OpenAiConfig, require_installed
from r1trt.package.limits import GenerationLimits
from r1trt.progress import Progress, ignore
from r1trt.runtime.sampling_defaults import SamplingDefaults, sampling_defaults_from_dir
from r1trt.triton_server.config import HOST, ServerConfig
from r1trt.triton_server.environment import serving_environment
from r1trt.triton_server.kept_log import kept_log
from r1trt.triton_server.plain_path import require_plain_path
from r1trt.triton_server.restarting import RestartingServer
from r1trt.triton_server.served_models import EngineToServe, models_to_serve, write_repository

_DESCRIPTORS = 8192
"""For the connections that the front door allows, and the server's own."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What `served_models` starts.

    Attributes:
        engines: What is served; one at least.
        http_port: For the HTTP protocol.
        grpc_port: For the gRPC protocol.
        metrics_port: For Prometheus metrics.
        openai_port: For OpenAI's clients; None does not serve them.
        openai_host: Address that is listened on for them.
        api_keys: One of which they have to send; none lets everybody in who reaches the address.
        drain_seconds: For requests that run when a signal ends the command.
        limits: How requests share each model; None means the defaults. A repository has its own.
    """

    engines: tuple[EngineToServe, ...]
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    openai_port: int | None = None
    openai_host: str = HOST
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    drain_seconds: float = 0
    limits: GenerationLimits | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for a time that is none, and what is said of an interface that is not served."""
        if not 0 <= self.drain_seconds < math.inf:
            raise UsageError("--drain-seconds is no time.", found=self.drain_seconds, expected="0 or more")
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
        name: What clients ask for.
        sampling: How tokens are chosen where a request does not say.
    """

    name: str
    sampling: SamplingDefaults


@dataclass(frozen=True, kw_only=True)
class ServedModels:
    """Models that a running server answers for.

    Attributes:
        server: Its process.
        models: In the order in which they were asked for.
        http: Address of the HTTP protocol.
        grpc: Address of the gRPC protocol.
        metrics: Address of the metrics.
        openai: Address for OpenAI's clients; None where they are not served.
    """

    server: RestartingServer
    models: tuple[ServedModel, ...]
    http: str
    grpc: str
    metrics: str
    openai: str | None

    @property
    def name(self) -> str:
        """The first model's."""
        return self.models[0].name

    @property
    def examples(self) -> list[str]:
        """Calls for a shell, of the first model."""
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
def served_models(
    config: ServeConfig, progress: Progress = ignore, log: Callable[[str], None] = lambda text: None
) -> Iterator[ServedModels]:
    """Starts the bundled server with its models, and stops it at the end.

    Args:
        config: What to serve.
        progress: Told of each phase.
        log: Told of restarts.

    Yields:
        The models, once all are ready.

    Raises:
        R1TrtError: An engine cannot be served, or the server does not start.
        UnavailableError: An engine is for a GPU, or the bundled server cannot be installed.
    """
    on_cluster = _on_cluster(config)
    models = models_to_serve(config.engines, config.limits)
    require_plain_path(cache_directory(), fix=f"set {CACHE_VARIABLE} to a folder with another name")
    with temporary_directory("serve") as directory:
        require_plain_path(directory, fix="set TMPDIR to a folder with another name")
        directories = write_repository(directory / "repository", models, config.limits)
        sampling = [sampling_defaults_from_dir(model.engine) for model in directories]
        limits = DoorLimits.for_models({model.name: model.capacity for model in models})
        server_config = _server_config(config, directory, limits)
        # Last, since it may take minutes: everything that can be refused has been.
        environment = serving_environment(progress, ray=on_cluster)
        if server_config.openai is not None and server_config.openai.note is not None:
            log(server_config.openai.note)
        progress("starting the server", 0, 0)
        allow_descriptors(_DESCRIPTORS)
        with (
            kept_log(server_config.log),
            RestartingServer(environment, server_config, limits, log) as server,
            drained_at_ending(server.draining(config.drain_seconds))
            if config.drain_seconds
            else nullcontext(),
        ):
            named = [
                ServedModel(name=model.name, sampling=defaults)
                for model, defaults in zip(models, sampling, strict=True)
            ]
            yield _served(config, server, named, server_config.openai)


def _on_cluster(config: ServeConfig) -> bool:
    """Whether the models run on a cluster, which then answers."""
    cluster = None if config.limits is None else config.limits.cluster
    if cluster is not None:
        require_cluster(cluster)
    return cluster is not None


def _served(
    config: ServeConfig, server: RestartingServer, models: Sequence[ServedModel], openai: OpenAiConfig | None
) -> ServedModels:
    return ServedModels(
        server=server,
        models=tuple(models),
        http=f"{HOST}:{config.http_port}",
        grpc=f"{HOST}:{config.grpc_port}",
        metrics=f"{HOST}:{config.metrics_port}",
        openai=None if openai is None else openai.address,
    )


def _server_config(config: ServeConfig, directory: Path, limits: DoorLimits) -> ServerConfig:
    (directory / "sockets").mkdir()
    return ServerConfig(
        repository=directory / "repository",
        log=directory / "server.log",
        sockets=directory / "sockets",
        http_port=config.http_port,
        grpc_port=config.grpc_port,
        metrics_port=config.metrics_port,
        openai=_openai_config(config, limits),
    )


def _openai_config(config: ServeConfig, limits: DoorLimits) -> OpenAiConfig | None:
    if config.openai_port is None:
        return None
    require_installed()
    return OpenAiConfig(
        models=tuple(limits.body_bytes_of),
        port=config.openai_port,
        host=config.openai_host,
        keys=config.api_keys,
        limits=limits,
    )
