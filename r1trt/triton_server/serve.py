"""`r1trt serve`: an engine, or a repository, behind the bundled server, for a trial on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1trt.artifacts.store import read_manifest
from r1trt.errors import BuildError, ConfigError, UnavailableError
from r1trt.package.generation import GenerationLimits, write_generation_model
from r1trt.package.repository import require_model_name
from r1trt.triton_server.environment import Progress, serving_environment
from r1trt.triton_server.process import HOST, ServerConfig, TritonServer


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What `serving` starts.

    Attributes:
        engine: Build directory for a CPU, or a model repository that `r1trt triton` wrote for one.
        model_name: Name that clients ask for; None takes the checkpoint's. A repository has its own.
        http_port: For the HTTP protocol.
        grpc_port: For the gRPC protocol.
        metrics_port: For Prometheus metrics.
        limits: How requests share the model; None means the defaults. A repository has its own.
    """

    engine: Path
    model_name: str | None = None
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    limits: GenerationLimits | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A server that answers.

    Attributes:
        server: Its process.
        model_name: What clients ask for.
        http: Address of the HTTP protocol.
        grpc: Address of the gRPC protocol.
        metrics: Address of the metrics.
    """

    server: TritonServer
    model_name: str
    http: str
    grpc: str
    metrics: str

    @property
    def examples(self) -> list[str]:
        """Calls for a shell."""
        url = f"http://{self.http}/v2/models/{self.model_name}"
        question = '"text_input": "What is the capital of France?", "chat": true, "max_tokens": 64'
        return [
            f"curl -s {url}/generate -d '{{{question}}}'",
            f"curl -sN {url}/generate_stream -d '{{{question}, \"stream\": true}}'",
            f"curl -s http://{self.metrics}/metrics | grep ^r1trt_",
        ]


@contextmanager
def serving(config: ServeConfig, progress: Progress | None = None) -> Iterator[Trial]:
    """Starts the bundled server with one engine, and stops it at the end.

    Args:
        config: What to serve.
        progress: Called with (phase, done, total).

    Yields:
        The server, once it is ready.

    Raises:
        R1TrtError: The engine cannot be served, or the server does not start.
        UnavailableError: The engine is for a GPU, or the bundled server cannot be installed.
    """
    manifest = read_manifest(config.engine)
    is_repository = manifest["kind"] == "triton"
    _require_servable(config, manifest)
    name = config.model_name or str((manifest if is_repository else manifest["source"])["model_name"])
    require_model_name(name)
    with tempfile.TemporaryDirectory(prefix="r1trt-serve-") as directory:
        repository = config.engine if is_repository else Path(directory) / "repository"
        if not is_repository:
            place = write_generation_model(repository / name, manifest, config.limits or GenerationLimits())
            # The directory and not its files: ONNX Runtime refuses weights that a link leads out of it.
            place.symlink_to(config.engine.resolve())
        server_config = _server_config(config, repository, Path(directory))
        # Last, since it may take minutes: everything that can be refused has been.
        environment = serving_environment(progress)
        if progress is not None:
            progress("starting the server", 0, 0)
        with TritonServer(environment, server_config) as server:
            yield Trial(
                server=server,
                model_name=name,
                http=f"{HOST}:{config.http_port}",
                grpc=f"{HOST}:{config.grpc_port}",
                metrics=f"{HOST}:{config.metrics_port}",
            )


def _server_config(config: ServeConfig, repository: Path, directory: Path) -> ServerConfig:
    return ServerConfig(
        repository=repository.resolve(),
        log=directory / "server.log",
        http_port=config.http_port,
        grpc_port=config.grpc_port,
        metrics_port=config.metrics_port,
    )


def _require_servable(config: ServeConfig, manifest: Mapping[str, Any]) -> None:
    if manifest["kind"] == "export":
        raise BuildError("This is an export, not a build.", where=config.engine, fix="r1trt build it first")
    engine = manifest
    if manifest["kind"] == "triton":
        engine = manifest["engine"]
        if config.model_name is not None or config.limits is not None:
            raise ConfigError(
                "A repository has its own name and limits.",
                where=config.engine,
                fix="edit its config.pbtxt, or write it again with r1trt triton",
            )
    elif not manifest["engines"]:
        raise BuildError(
            "This build is not finished: it has no engine.",
            where=config.engine,
            fix=f"r1trt build {config.engine}",
        )
    if engine["backend"] != "onnxruntime":
        raise UnavailableError(
            "The bundled server runs engines for a CPU only.",
            where=config.engine,
            found=f"backend {engine['backend']}",
            fix="start Triton's container with what `r1trt triton` writes; the README there has the command",
        )
    if not engine["cache"]:
        raise BuildError(
            "A scoring engine cannot generate: it has no KV cache.",
            where=config.engine,
            fix="build without --no-cache; `r1trt triton` writes a repository for scoring",
        )
