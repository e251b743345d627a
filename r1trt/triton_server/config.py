"""What the bundled server is started with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from r1trt.door.listening import LOOPBACK
from r1trt.errors import UsageError
from r1trt.lifetime.identity import ProcessIdentity
from r1trt.openai.config import OpenAiConfig

HOST = LOOPBACK
PREFIX = "r1trt_"
"""Of everything in shared memory."""


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """A server to start.

    Attributes:
        repository: Model repository.
        log: File that the server's messages go to.
        sockets: Directory that the server listens in; nobody else can enter it.
        http_port: Of the front door, for the HTTP protocol.
        grpc_port: Of the front door, for the gRPC protocol.
        metrics_port: Of the front door, for Prometheus metrics.
        openai: For OpenAI's clients; None where they are not served.
        arguments: Further arguments of the server.
    """

    repository: Path
    log: Path
    sockets: Path
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    openai: OpenAiConfig | None = None
    arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ConfigError for ports that are not distinct."""
        ports = [self.http_port, self.grpc_port, self.metrics_port]
        ports += [] if self.openai is None else [self.openai.port]
        if len(set(ports)) < len(ports):
            raise UsageError("The ports have to differ.", found=", ".join(map(str, ports)))

    @property
    def shared_memory_prefix(self) -> str:
        """Start of the names of the server's shared memory: whose port it is, and whose process."""
        return f"{PREFIX}{os.getuid()}_{self.http_port}_{ProcessIdentity.own()}_"

    @property
    def http_socket(self) -> str:
        """Name in `sockets`."""
        return "http"

    @property
    def metrics_socket(self) -> str:
        """Name in `sockets`."""
        return "metrics"

    @property
    def grpc_socket(self) -> str:
        """Name in `sockets`: the server puts its port behind every address."""
        return f"grpc:{self.grpc_port}"
