"""The paths of OpenAI's interface, as an ASGI application."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from r1trt.openai.answers import Answer, chat_answer, completion_answer
from r1trt.openai.asked import Asked
from r1trt.openai.chat_request import chat_from_values
from r1trt.openai.completion_request import completion_from_values
from r1trt.openai.config import OpenAiConfig
from r1trt.openai.errors import ApiError, unavailable
from r1trt.openai.exchange import (
    ClientLeftError,
    object_from_request,
    send_events,
    send_whole,
    unless_left,
)
from r1trt.openai.keys import ApiKeys
from r1trt.openai.merged import merged
from r1trt.openai.model_client import ModelClient
from r1trt.openai.values import Values, shown

HEALTH = "/health"


def openai_app(
    config: OpenAiConfig, client: ModelClient, is_open: Callable[[], bool] = lambda: True
) -> Starlette:
    """The application.

    Args:
        config: Models, keys and limits.
        client: Connection to Triton.
        is_open: Whether requests are taken now.
    """
    models = Models(config, client, is_open)
    chat = Generation(models, chat_from_values, chat_answer)
    completion = Generation(models, completion_from_values, completion_answer)
    routes = [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", completion, methods=["POST"]),
        Route("/v1/models", models.list, methods=["GET"]),
        Route("/v1/models/{model}", models.one, methods=["GET"]),
        Route(HEALTH, models.health, methods=["GET"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(RequireKey, keys=ApiKeys(config.keys))],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error, Exception: _defect},
    )


class RequireKey:
    """Lets nobody without a key at anything but the health.

    Args:
        app: What is behind it.
        keys: Those that are taken.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            if scope["path"] != HEALTH:
                self._keys.require(Request(scope).headers.get("authorization"))
        except ApiError as error:
            await _response(error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class Models:
    """The models that there are.

    Args:
        config: Their names, and limits.
        client: Connection to Triton.
        is_open: Whether requests are taken now.
    """

    def __init__(self, config: OpenAiConfig, client: ModelClient, is_open: Callable[[], bool]) -> None:
        self.client, self.limits = client, config.limits
        self._names, self._is_open = config.models, is_open
        self._created = int(time.time())

    def require(self, name: str) -> None:
        """Raises ApiError where there is no such model, or none is there yet."""
        if name not in self._names:
            raise ApiError(
                404,
                f"The model {shown(name)} does not exist; there is {', '.join(self._names)}.",
                param="model",
                code="model_not_found",
            )
        if not self._is_open():
            raise unavailable("The model is not ready; try again in some seconds.")

    async def list(self, request: Request) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self._entry(name) for name in self._names]})

    async def one(self, request: Request) -> Response:
        """GET /v1/models/{model}."""
        self.require(name := request.path_params["model"])
        return JSONResponse(self._entry(name))

    async def health(self, request: Request) -> Response:
        """GET /health: 200 where every model answers."""
        for name in self._names:
            self.require(name)
            if not await self.client.is_ready(name):
                raise unavailable(f"The model {name} is not ready.")
        return JSONResponse({"status": "ok"})

    def _entry(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "r1trt"}


class Generation:
    """A path that generates text; an ASGI application.

    Args:
        models: The models.
        asked_from: Reads a request.
        answer_to: What an answer to it looks like.
    """

    def __init__(
        self, models: Models, asked_from: Callable[[Values], Asked], answer_to: Callable[[Asked], Answer]
    ) -> None:
        self._models, self._asked_from, self._answer_to = models, asked_from, answer_to

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        limits = self._models.limits
        with suppress(ClientLeftError):
            asked = self._asked_from(Values(await object_from_request(scope, receive, limits)))
            self._models.require(asked.model)
            await unless_left(receive, self._answer(asked, send))

    async def _answer(self, asked: Asked, send: Send) -> None:
        client, answer = self._models.client, self._answer_to(asked)
        pieces = merged([client.generate(asked.model, call) for call in asked.calls])
        if asked.stream:
            await send_events(send, answer.chunks(pieces))
        else:
            await send_whole(send, await answer.whole(pieces))


def _response(error: ApiError) -> Response:
    return JSONResponse(error.content, error.status, headers=error.headers)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """No such path, or no such method of it."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}"
    if error.status_code == 405:
        refused = ApiError(405, f"Not allowed to {what}.", code="method_not_supported")
    else:
        refused = ApiError(error.status_code, f"Unknown request URL: {what}.", code="unknown_url")
    response = _response(refused)
    response.headers.update(error.headers or {})
    return response


async def _defect(request: Request, error: Exception) -> Response:
    return _response(ApiError(500, "The server had an error while processing the request."))
