"""Errors in OpenAI's form."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from r1trt.door.admission import RETRY_S
from r1trt.door.model_errors import status_of_error
from r1trt.serving.fields import TOO_LONG

CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"


class ApiError(Exception):
    """A request that gets an error in the place of an answer.

    Args:
        status: Of HTTP.
        message: For the client.
        param: The field that is wrong.
        code: What programs tell errors of one status apart by.
        retry_s: Seconds after which what is unavailable may be there again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_s: int = RETRY_S,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self._retry_s = retry_s

    @property
    def content(self) -> dict[str, Any]:
        """What the client gets."""
        kind = "invalid_request_error" if self.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """What the answer has besides."""
        if self.status == HTTPStatus.UNAUTHORIZED:
            return {"WWW-Authenticate": "Bearer"}
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return {"Retry-After": str(self._retry_s)}
        return {}


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that is wrong as it stands."""
    return ApiError(HTTPStatus.BAD_REQUEST, message, param=param, code=code)


def error_of_model(text: str) -> ApiError:
    """What the model says of a request, in one line."""
    first, *details = (line.strip() for line in text.splitlines() or [""])
    message = f"{first} ({'; '.join(details)})" if details else first
    status = status_of_error(text)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return unavailable(message)
    return ApiError(status, message, code=CONTEXT_LENGTH_EXCEEDED if TOO_LONG in first else None)


def unavailable(message: str, retry_s: int = RETRY_S) -> ApiError:
    """What may succeed later."""
    return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, message, code="unavailable", retry_s=retry_s)
