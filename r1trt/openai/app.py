"""The paths of OpenAI's interface, as an ASGI application."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from r1trt.door.admission import Admission
from r1trt.openai.answers import Answer, chat_answer, completion_answer
from r1trt.openai.asked import Asked
from r1trt.openai.chat_request import chat_from_values
from r1trt.openai.completion_request import completion_from_values
from r1trt.openai.config import OpenAiConfig
from r1trt.openai.errors import ApiError
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
from r1trt.openai.models import Models
from r1trt.openai.values import Values

HEALTH = "/health"


def openai_app(config: OpenAiConfig, client: ModelClient, admission: Admission) -> Starlette:
    """The application.

    Args:
        config: Models, keys and limits.
        client: Connection to Triton.
        admission: Whether requests are taken now.
    """
    models = Models(config, client, admission)
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
            await self._models.require(asked.model)
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
