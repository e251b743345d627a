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

from r1trt.errors import R1TrtError
from r1trt.triton_server.config import HOST, ServerConfig
from r1trt.triton_server.door_limits import DoorLimits
from r1trt.triton_server.grpc_door import GrpcDoor
from r1trt.triton_server.http_door import HttpDoor, Streams

_BACKLOG = 128


class PortError(R1TrtError):
    """A port cannot be listened on."""


class FrontDoor:
    """Listens for HTTP, gRPC and metrics on this machine's loopback interface; a context manager.

    Args:
        config: The server's ports, and its directory of sockets.
        limits: What may pass.
    """

    def __init__(self, config: ServerConfig, limits: DoorLimits) -> None:
        self._config = config
        self._limits = limits
        self._stack = ExitStack()
        self.is_open = False

    def __enter__(self) -> FrontDoor:
        """Takes the ports; until `admit`, every request is answered with 503.

        Raises:
            PortError: A port is taken.
        """
        with ExitStack() as stack:
            config = self._config
            ports = (config.http_port, config.grpc_port, config.metrics_port)
            sockets = [stack.enter_context(_listening(port)) for port in ports]
            # Through the descriptor, since a socket's path has at most 107 bytes.
            self._directory = os.open(config.sockets, os.O_PATH | os.O_DIRECTORY)
            stack.callback(os.close, self._directory)
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
        self.is_open = True

    def refuse(self) -> None:
        """From now on every request is answered with 503."""
        self.is_open = False

    def _run(self, sockets: list[socket.socket], started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        http = HttpDoor(self._opens(self._config.http_socket), self._limits)
        grpc = GrpcDoor(self._opens(self._config.grpc_socket), self._limits)
        metrics = HttpDoor(self._opens(self._config.metrics_socket), self._limits, _metrics_methods)
        for serve, listening in zip((http.serve, grpc.serve, metrics.serve), sockets, strict=True):
            self._loop.run_until_complete(asyncio.start_server(serve, sock=listening, backlog=_BACKLOG))
        started.set()
        self._loop.run_forever()
        # Connections that are open now are cut, and have nothing to say of it.
        self._loop.set_exception_handler(lambda loop, context: None)
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _opens(self, name: str) -> Callable[[], Awaitable[Streams]]:
        path = Path(f"/proc/self/fd/{self._directory}", name)

        async def opened() -> Streams:
            if not self.is_open:
                raise ConnectionRefusedError
            return await asyncio.open_unix_connection(path)

        return opened


def _metrics_methods(target: str) -> tuple[str, ...]:
    return ("GET",) if target == "/metrics" else ()


def _listening(port: int) -> socket.socket:
    listening = socket.socket()
    # As servers do: a port that a closed connection still lingers on is free.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise PortError(
            f"Port {port} of this machine cannot be used.",
            found=error.strerror,
            fix="choose others with --http-port, --grpc-port and --metrics-port",
        ) from error
    return listening
