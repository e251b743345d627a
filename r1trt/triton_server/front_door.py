"""The addresses that clients see, in front of a server that listens on sockets in a private directory."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from r1trt.door.admission import NOT_READY, Admission
from r1trt.door.limits import DoorLimits
from r1trt.door.listening import BACKLOG, listening_socket
from r1trt.openai.config import OpenAiConfig
from r1trt.triton_server.config import HOST, ServerConfig
from r1trt.triton_server.grpc_door import GrpcDoor
from r1trt.triton_server.http_door import HttpDoor, Streams

if TYPE_CHECKING:
    from r1trt.openai.server import OpenAiServer

_FIX = "choose others with --http-port, --grpc-port, --metrics-port and --openai-port"


class FrontDoor:
    """Listens for HTTP, gRPC and metrics on this machine's loopback interface, and for OpenAI's clients.

    A context manager.

    Args:
        config: The server's ports, and its directory of sockets.
        limits: What may pass.
    """

    def __init__(self, config: ServerConfig, limits: DoorLimits) -> None:
        self._config = config
        self._limits = limits
        self._stack = ExitStack()
        self._admission = Admission()
        self._http = HttpDoor(self._opens(config.http_socket), limits, self._admission)
        self._grpc = GrpcDoor(self._opens(config.grpc_socket), limits, self._admission)
        self._openai: OpenAiServer | None = None

    def __enter__(self) -> FrontDoor:
        """Takes the ports; until `admit`, every request is answered with 503.

        Raises:
            PortError: A port is taken.
        """
        with ExitStack() as stack:
            config = self._config
            ports = (config.http_port, config.grpc_port, config.metrics_port)
            sockets = [stack.enter_context(listening_socket(HOST, port, fix=_FIX)) for port in ports]
            # Through the descriptor, since a socket's path has at most 107 bytes.
            self._directory = os.open(config.sockets, os.O_PATH | os.O_DIRECTORY)
            stack.callback(os.close, self._directory)
            if config.openai is not None:
                self._openai = self._openai_server(config.openai)
                host, port = config.openai.host, config.openai.port
                sockets.append(stack.enter_context(listening_socket(host, port, fix=_FIX)))
            # Last, since it is only closed by the thread that runs it.
            self._loop = asyncio.new_event_loop()
            started = threading.Event()
            thread = threading.Thread(
                target=self._run, args=(sockets, started), name="front-door", daemon=True
            )
            thread.start()
            started.wait()
            stack.callback(thread.join)
            stack.callback(self._loop.call_soon_threadsafe, self._loop.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Gives the ports back."""
        self._stack.close()

    def admit(self) -> None:
        """From now on requests are handed on."""
        self._admission.admit()

    def refuse(self, why: str = NOT_READY) -> None:
        """From now on every request is answered with 503, and why."""
        self._admission.refuse(why)

    @property
    def is_open(self) -> bool:
        """Whether requests are handed on."""
        return self._admission.is_open

    def drain(self, seconds: float) -> None:
        """From now on new requests are refused; those that were taken go on. For any thread."""
        self._admission.end(seconds)
        self._loop.call_soon_threadsafe(self._grpc.drain)

    @property
    def in_flight(self) -> int:
        """Requests that were taken, and whose answer is not complete."""
        openai = 0 if self._openai is None else self._openai.in_flight
        return self._http.in_flight + self._grpc.in_flight + openai

    def _openai_server(self, config: OpenAiConfig) -> OpenAiServer:
        from r1trt.openai.server import OpenAiServer

        address = f"unix:{self._path(self._config.grpc_socket)}"
        return OpenAiServer(config, address, self._admission)

    def _run(self, sockets: list[socket.socket], started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        metrics = HttpDoor(
            self._opens(self._config.metrics_socket), self._limits, self._admission, _metrics_methods
        )
        for serve, listening in zip(
            (self._http.serve, self._grpc.serve, metrics.serve), sockets, strict=False
        ):
            self._loop.run_until_complete(asyncio.start_server(serve, sock=listening, backlog=BACKLOG))
        if self._openai is not None:
            self._loop.run_until_complete(self._openai.start(sockets[-1]))
        started.set()
        self._loop.run_forever()
        if self._openai is not None:
            self._loop.run_until_complete(self._openai.stop())
        # Connections that are open now are cut, and have nothing to say of it.
        self._loop.set_exception_handler(lambda loop, context: None)
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _path(self, name: str) -> Path:
        return Path(f"/proc/self/fd/{self._directory}", name)

    def _opens(self, name: str) -> Callable[[], Awaitable[Streams]]:
        async def opened() -> Streams:
            return await asyncio.open_unix_connection(self._path(name))

        return opened


def _metrics_methods(target: str) -> tuple[str, ...]:
    return ("GET",) if target == "/metrics" else ()
