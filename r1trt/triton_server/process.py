"""The bundled Triton server as a process that listens on sockets in a private directory."""

from __future__ import annotations

import http.client
import os
import secrets
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from r1trt.errors import R1TrtError
from r1trt.lifetime.children import ChildGroup, arguments_of, children_of, is_alive, name_of
from r1trt.lifetime.ending import at_ending
from r1trt.triton_server.backend_folders import backend_folders, remove_backend_folders
from r1trt.triton_server.config import HOST, ServerConfig
from r1trt.triton_server.environment import ServingEnvironment
from r1trt.triton_server.shared_memory import remove_left_behind, remove_shared_memory

READY_TIMEOUT_S = 300.0
EXIT_TIMEOUT_S = 2
"""For requests that are answered while the server is asked to end."""
STOP_S = 3.0
"""Before the server is killed."""
_POLL_S = 0.1
_DEAD_S = 1.0
_ERROR_LINES = 20
_MODEL_NAME = "triton_python"
"""Of a model's process, as the kernel has it: 15 characters of triton_python_backend_stub."""
_ADMIN = ("shared-memory", "model-repository", "trace", "logging")


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
        self._models: dict[int, str] = {}
        self._dead: dict[int, float] = {}
        self._folders: frozenset[Path] = frozenset()

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
        """Starts the process."""
        for name in (self._config.http_socket, self._config.grpc_socket, self._config.metrics_socket):
            (self._config.sockets / name).unlink(missing_ok=True)
        remove_left_behind(self._config.http_port)
        self._folders = backend_folders()
        # A group of its own: Ctrl-C on the terminal is for this process, and a server that is killed or ends
        # while it starts leaves the processes of its models behind.
        group = self._stack.enter_context(ChildGroup())
        self._stack.enter_context(at_ending(self._end_process))
        with self._config.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                env=self._environment.variables(),
                cwd=self._config.sockets,
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
        while not self._answers():
            if not self.is_running:
                raise self._failure("The server ended before it was ready.")
            if self._waits_for_a_dead_model():
                raise self._failure("A model's process ended before it was ready.")
            if time.monotonic() > deadline:
                raise self._failure(f"The server was not ready after {timeout:.0f} s.")
            time.sleep(_POLL_S)
        # Only now: while it loads a model the server starts further ones, and ends them.
        pids = (pid for pid in children_of(self.pid) if name_of(pid).startswith(_MODEL_NAME))
        self._models = {pid: self._model_of(pid) for pid in pids}

    @property
    def is_running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def lost_models(self) -> list[str]:
        """Names of models whose process has ended: the server goes on, and their requests hang for ever."""
        return sorted(name for pid, name in self._models.items() if not is_alive(pid))

    def errors(self) -> str:
        """The log's errors, or its last lines."""
        lines = self._config.log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith(("E", "error:")) and "CudaDriver" not in line]
        return "\n".join((errors or lines)[-_ERROR_LINES:])

    def kill(self) -> None:
        """Ends the process and those of its models at once."""
        self._stack.close()
        if self._process is not None:
            self._process.wait()
            remove_backend_folders(self._folders, self._process.pid)
        self._models.clear()
        remove_shared_memory(self._config.shared_memory_prefix)

    def stop(self) -> None:
        """Ends the process in order, and those of its models, and removes its shared memory."""
        self._end_process()
        self.kill()

    def _end_process(self) -> None:
        """Asks the process to end, and waits; whatever is left then is killed with its group."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        remove_shared_memory(self._config.shared_memory_prefix)
        remove_backend_folders(self._folders, process.pid)

    def _command(self) -> list[str]:
        config = self._config
        return [
            str(self._environment.server),
            f"--model-repository={config.repository}",
            f"--backend-directory={self._environment.backends}",
            f"--backend-config=python,shm-region-prefix-name={config.shared_memory_prefix}",
            # Relative to the working directory, since a socket's path has at most 107 bytes.
            f"--http-address=unix:{config.http_socket}",
            f"--metrics-address=unix:{config.metrics_socket}",
            f"--grpc-address=unix:{config.grpc_socket.partition(':')[0]}",
            *_admin_restrictions(),
            f"--http-port={config.http_port}",
            f"--grpc-port={config.grpc_port}",
            f"--metrics-port={config.metrics_port}",
            "--allow-gpu-metrics=false",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            *config.arguments,
        ]

    def _model_of(self, pid: int) -> str:
        """The model that a process runs: the server gives it the path of its program."""
        for argument in arguments_of(pid):
            with suppress(ValueError):
                return Path(argument).relative_to(self._config.repository).parts[0]
        return "a model"

    def _waits_for_a_dead_model(self) -> bool:
        """Whether a model's process has been dead for a while: it waits for those that it ended."""
        now = time.monotonic()
        dead = {pid for pid in children_of(self.pid) if not is_alive(pid)}
        self._dead = {pid: self._dead.get(pid, now) for pid in dead}
        return any(now - since > _DEAD_S for since in self._dead.values())

    def _failure(self, message: str) -> ServerError:
        return ServerError(message, where=self._config.log, found=self.errors())

    def _answers(self) -> bool:
        return _is_ready(_UnixConnection(self._config.sockets, self._config.http_socket))


def is_ready(http_port: int) -> bool:
    """Whether a server on this machine says that all its models answer."""
    return _is_ready(http.client.HTTPConnection(HOST, http_port, timeout=5))


def _is_ready(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket in a directory, whose own path may be of any length."""

    def __init__(self, directory: Path, name: str) -> None:
        super().__init__("localhost", timeout=5)
        self._directory, self._name = directory, name

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        folder = os.open(self._directory, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/{self._name}")
        finally:
            os.close(folder)


def _admin_restrictions() -> tuple[str, ...]:
    """Switches off what changes the server for everybody, over gRPC; the front door has it off over HTTP."""
    secret = secrets.token_hex(16)
    return (f"--grpc-restricted-protocol={','.join(_ADMIN)}:r1trt-admin={secret}",)
