"""What may pass to the server: sizes, times and paths."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LEAST_BODY = 1 << 20
_BYTES_A_TOKEN, _LEAST_TEXT = 64, 1 << 16
"""As a request's prompt is bounded (`r1trt.serving.call`)."""
_ESCAPED = 6
"""JSON writes a character as six: \\u0041."""

_MODEL = r"/v2/models/[^/?]+(/versions/[^/?]+)?"
_READ = re.compile(rf"/v2(/health/(live|ready)|/models/stats|{_MODEL[3:]}(/(ready|config|stats))?)?/?(\?.*)?")
_ASK = re.compile(rf"{_MODEL}/(generate|generate_stream|infer)(\?.*)?")
_TEXT = re.compile(rf"{_MODEL}/(generate|generate_stream)(\?.*)?")
_INDEX = "/v2/repository/index"


@dataclass(frozen=True, kw_only=True)
class DoorLimits:
    """Limits of one front door.

    Attributes:
        body_bytes: Of a request's body, and of one message over gRPC.
        head_bytes: Of a request's line and headers.
        head_s: For a request's head to arrive once it has begun, or the next one to begin.
        body_s: For a body to arrive; also how long a client may take none of its answer.
        connections: At a time, for each protocol.
        depth: Of lists and objects in JSON: the server's own parser overflows its stack at some 100,000.
    """

    body_bytes: int = _LEAST_BODY
    head_bytes: int = 1 << 15
    head_s: float = 75.0
    body_s: float = 60.0
    connections: int = 1024
    depth: int = 64

    @classmethod
    def for_capacity(cls, capacity: int) -> DoorLimits:
        """Room for the longest prompt of a model with `capacity` tokens, every character of it escaped."""
        text = max(_LEAST_TEXT, _BYTES_A_TOKEN * capacity)
        return cls(body_bytes=max(_LEAST_BODY, _ESCAPED * text + _LEAST_TEXT))


def allowed_methods(target: str) -> tuple[str, ...]:
    """Methods that a path may be asked with; none for what changes the server, or is no path of it."""
    if _ASK.fullmatch(target):
        return ("POST",)
    if _READ.fullmatch(target):
        return ("GET", "HEAD")
    return ("POST",) if target == _INDEX else ()


def takes_no_body(target: str) -> bool:
    """Whether a path that is asked with POST may be asked without a body."""
    return target == _INDEX


def asks_for_text(target: str) -> bool:
    """Whether a path takes the fields of a request by name."""
    return _TEXT.fullmatch(target) is not None


def is_stream(target: str) -> bool:
    """Whether a path that takes them sends text as it is generated."""
    return target.partition("?")[0].endswith("/generate_stream")
