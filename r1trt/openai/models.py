"""The models that clients may ask."""

from __future__ import annotations

import time
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from r1trt.door.admission import Admission
from r1trt.openai.config import OpenAiConfig
from r1trt.openai.errors import ApiError, unavailable
from r1trt.openai.model_client import ModelClient
from r1trt.openai.values import shown

_MOST_NAMED = 20


class Models:
    """The models that there are: those of the configuration, or all that the server has.

    Args:
        config: Their names, and limits.
        client: Connection to Triton.
        admission: Whether requests are taken now.
    """

    def __init__(self, config: OpenAiConfig, client: ModelClient, admission: Admission) -> None:
        self.client, self.limits = client, config.limits
        self._given, self._names, self._admission = config.models, config.models, admission
        self._created = int(time.time())

    async def require(self, name: str) -> None:
        """Raises ApiError where there is no such model, or none is there now."""
        if name not in self._names and name not in await self._refreshed():
            known = ", ".join(self._names[:_MOST_NAMED]) or "none"
            raise ApiError(
                404,
                f"The model {shown(name)} does not exist; there is {known}.",
                param="model",
                code="model_not_found",
            )
        self._require_open()

    async def list(self, request: Request) -> Response:
        """GET /v1/models."""
        names = await self._refreshed()
        return JSONResponse({"object": "list", "data": [self._entry(name) for name in names]})

    async def one(self, request: Request) -> Response:
        """GET /v1/models/{model}."""
        await self.require(name := request.path_params["model"])
        return JSONResponse(self._entry(name))

    async def health(self, request: Request) -> Response:
        """GET /health: 200 where every model answers; says which do not."""
        self._require_open()
        names = await self._refreshed()
        down = [name for name in names if not await self.client.is_ready(name)]
        if down or not names:
            what = f"{'models' if len(down) > 1 else 'model'} {', '.join(down)}"
            raise unavailable(f"Not ready: {what}." if down else "The server has no model that is ready.")
        return JSONResponse({"status": "ok"})

    async def _refreshed(self) -> Sequence[str]:
        if not self._given:
            self._names = await self.client.generation_models()
        return self._names

    def _require_open(self) -> None:
        if (why := self._admission.refusal) is not None:
            raise unavailable(why, self._admission.retry_s)

    def _entry(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "r1trt"}
