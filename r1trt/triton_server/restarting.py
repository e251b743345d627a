"""A server behind its front door, started again when it or one of its models dies."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType

from r1trt.door.limits import DoorLimits
from r1trt.lifetime.ending import Drain
from r1trt.triton_server.config import ServerConfig
from r1trt.triton_server.environment import ServingEnvironment
from r1trt.triton_server.front_door import FrontDoor
from r1trt.triton_server.process import ServerError, TritonServer

_POLL_S = 0.1
BACK_OFF_S = 1.0
RESTARTS, WINDOW_S = 5, 600.0
"""So many in so many seconds; after that it is no accident any more."""


class RestartingServer:
    """A context manager that starts and stops the server and its front door.

    Args:
        environment: The bundled server.
        config: What to start.
        limits: What may pass the front door.
        log: Told of each restart.
    """

    def __init__(
        self,
        environment: ServingEnvironment,
        config: ServerConfig,
        limits: DoorLimits,
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._server = TritonServer(environment, config)
        self._config = config
        self._door = FrontDoor(config, limits)
        self._log = log
        self._restarts: list[float] = []
        self._stack = ExitStack()

    def __enter__(self) -> RestartingServer:
        """Takes the ports, starts the server, and waits until it is ready.

        Raises:
            PortError: A port is taken.
            ServerError: The server does not start.
        """
        with ExitStack() as stack:
            stack.enter_context(self._door)
            stack.enter_context(self._server)
            self._door.admit()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops both."""
        self._door.refuse()
        self._stack.close()

    @property
    def pid(self) -> int:
        """The server's process id; another one after a restart."""
        return self._server.pid

    def draining(self, seconds: float) -> Drain:
        """What the end of this process is to let come to its end first."""
        return Drain(
            seconds=seconds,
            begin=lambda: self._door.drain(seconds),
            is_done=lambda: not self._door.in_flight,
        )

    def wait(self, poll: Callable[[], None] = lambda: None) -> None:
        """Watches the server, and starts it again when it or a model of it has died.

        Args:
            poll: Called at short intervals; what it raises ends the wait.

        Raises:
            ServerError: It died too often.
        """
        while True:
            poll()
            if not self._door.is_open or not self._server.is_running or self._server.lost_models():
                self._restart()
            time.sleep(_POLL_S)

    def _restart(self) -> None:
        what = self._what_ended()
        self._door.refuse(f"{what} ended by itself, and is being started again; try again in some seconds.")
        # What is in flight gets its error now: these requests would wait for ever.
        self._server.kill()
        self._require_seldom(what)
        self._log(f"{what} ended by itself; all models are started again")
        time.sleep(BACK_OFF_S * (len(self._restarts) - 1))
        self._server.start()
        # Where it dies again meanwhile, the next look finds it so.
        with suppress(ServerError):
            self._server.wait_until_ready()
            self._door.admit()
            self._log("the server is ready again")

    def _what_ended(self) -> str:
        lost = self._server.lost_models() if self._server.is_running else []
        return f"The process of {' and '.join(lost)}" if lost else "The server"

    def _require_seldom(self, what: str) -> None:
        now = time.monotonic()
        self._restarts = [moment for moment in self._restarts if now - moment < WINDOW_S]
        if len(self._restarts) == RESTARTS:
            raise ServerError(
                f"{what} ended by itself, time {RESTARTS + 1} in {WINDOW_S / 60:.0f} minutes.",
                where=self._config.log,
                found=self._server.errors(),
                fix="look for what kills it: most often the machine has too little memory for --rows",
            )
        self._restarts.append(now)
