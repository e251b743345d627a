"""The front end as a server on an event loop."""

from __future__ import annotations

import asyncio
import socket
from math import ceil

import uvicorn

from r1trt.door.admission import Admission
from r1trt.openai.app import openai_app
from r1trt.openai.bounded_protocol import bounded_protocol
from r1trt.openai.config import OpenAiConfig
from r1trt.openai.draining import DrainingServer
from r1trt.openai.model_client import ModelClient

_POLL_S = 0.01
_STOP_S = 1.0
"""For requests to notice that their connections are cut."""


class OpenAiServer:
    """Listens for OpenAI's clients.

    Args:
        config: What to start.
        address: Where Triton listens for gRPC.
        admission: Whether requests are taken now.
        drain_s: For requests that run, at the signal that ends a process in whose first thread it runs.
    """

    def __init__(self, config: OpenAiConfig, address: str, admission: Admission, drain_s: float = 0) -> None:
        self._config, self._address, self._admission, self._drain_s = config, address, admission, drain_s

    async def start(self, listening: socket.socket) -> None:
        """Serves from now on, on the loop that runs.

        Args:
            listening: The port that it listens on.
        """
        self._client = ModelClient(self._address)
        self._server = DrainingServer(self._uvicorn_config(), self._admission, self._drain_s)
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(_POLL_S)

    async def wait(self) -> None:
        """Waits until a signal ends it, where it runs in a process's first thread."""
        await self._task

    @property
    def in_flight(self) -> int:
        """Requests whose answer is not complete."""
        return len(self._server.server_state.tasks)

    async def stop(self) -> None:
        """Cuts what is in flight, and listens no more."""
        state = self._server.server_state
        for connection in list(state.connections):
            if (transport := connection.transport) is not None:
                transport.abort()
        if tasks := list(state.tasks):
            await asyncio.wait(tasks, timeout=_STOP_S)
        self._server.should_exit = self._server.force_exit = True
        await self._task
        await self._client.close()

    def _uvicorn_config(self) -> uvicorn.Config:
        limits = self._config.limits
        return uvicorn.Config(
            openai_app(self._config, self._client, self._admission),
            http=bounded_protocol(limits),
            h11_max_incomplete_event_size=limits.head_bytes,
            timeout_keep_alive=ceil(limits.head_s),
            timeout_graceful_shutdown=2,
            ws="none",
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            log_level="error",
        )
