"""The bundled Triton server as a process on this machine's loopback interface."""

from __future__ import annotations

import http.client
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType

from r1trt.errors import R1TrtError
from r1trt.lifetime.children import ChildGroup
from r1trt.lifetime.ending import at_ending
from r1trt.triton_server.config import HOST, ServerConfig
from r1trt.triton_server.environment import ServingEnvironment
from r1trt.triton_server.shared_memory import remove_left_behind, remove_shared_memory

READY_TIMEOUT_S = 300.0
EXIT_TIMEOUT_S = 2
"""For requests that are answered while the server is asked to end."""
STOP_S = 3.0
"""Before the server is killed."""
_POLL_S = 0.1
_ERROR_LINES = 20


class ServerError(R1TrtError):
    """The server did not start, or ended by itself."""


class TritonServer:
    """A running server; a context manager that starts and stops it.

    Args:
        environment: The bundled server.
        config: What to start.
    """

    def __init__(self, environment: ServingEnvironment, config: ServerConfig) -> None:
        self._environment = environment
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> TritonServer:
        """Starts the server and waits until it is ready."""
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops the server."""
        self.stop()

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    def start(self) -> None:
        """Starts the process.

        Raises:
            ServerError: A port is taken.
        """
        for port in (self._config.http_port, self._config.grpc_port, self._config.metrics_port):
            _require_free(port)
        remove_left_behind(self._config.http_port)
        # A group of its own: Ctrl-C on the terminal is for this process, and a server that is killed or ends
        # while it starts leaves the processes of its models behind.
        group = self._stack.enter_context(ChildGroup())
        self._stack.enter_context(at_ending(self._end_process))
        with self._config.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(),
                env=self._environment.variables(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=group.id,
            )

    def wait_until_ready(self, timeout: float = READY_TIMEOUT_S) -> None:
        """Waits until all models answer.

        Raises:
            ServerError: The server ended, or was not ready in time; the message quotes its log.
        """
        deadline = time.monotonic() + timeout
        while not is_ready(self._config.http_port):
            if not self.is_running:
                raise ServerError(
                    "The server ended before it was ready.", where=self._config.log, found=self._errors()
                )
            if time.monotonic() > deadline:
                raise ServerError(
                    f"The server was not ready after {timeout:.0f} s.",
                    where=self._config.log,
                    found=self._errors(),
                )
            time.sleep(_POLL_S)

    @property
    def is_running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def wait(self, poll: Callable[[], None] = lambda: None) -> None:
        """Waits until the process ends by itself.

        Args:
            poll: Called at short intervals; what it raises ends the wait.

        Raises:
            ServerError: It ended.
        """
        while self.is_running:
            poll()
            time.sleep(_POLL_S)
        raise ServerError("The server ended by itself.", where=self._config.log, found=self._errors())

    def stop(self) -> None:
        """Ends the process and those of its models, and removes its shared memory."""
        self._end_process()
        self._stack.close()
        if self._process is not None:
            self._process.wait()
        remove_shared_memory(self._config.shared_memory_prefix)

    def _end_process(self) -> None:
        """Asks the process to end, and waits; whatever is left then is killed with its group."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        remove_shared_memory(self._config.shared_memory_prefix)

    def _command(self) -> list[str]:
        config = self._config
        return [
            str(self._environment.server),
            f"--model-repository={config.repository}",
            f"--backend-directory={self._environment.backends}",
            f"--backend-config=python,shm-region-prefix-name={config.shared_memory_prefix}",
            *(f"--{protocol}-address={HOST}" for protocol in ("http", "grpc", "metrics")),
            f"--http-port={config.http_port}",
            f"--grpc-port={config.grpc_port}",
            f"--metrics-port={config.metrics_port}",
            "--allow-gpu-metrics=false",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            *config.arguments,
        ]

    def _errors(self) -> str:
        """The log's errors, or its last lines."""
        lines = self._config.log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith(("E", "error:")) and "CudaDriver" not in line]
        return "\n".join((errors or lines)[-_ERROR_LINES:])


def is_ready(http_port: int) -> bool:
    """Whether a server on this machine says that all its models answer."""
    connection = http.client.HTTPConnection(HOST, http_port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        # As the server does: a port that a closed connection still lingers on is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServerError(
                f"Port {port} of this machine cannot be used.",
                found=error.strerror,
                fix="choose others with --http-port, --grpc-port and --metrics-port",
            ) from error
