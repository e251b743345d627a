"""Limits of what listens: sizes and times."""

from __future__ import annotations

from dataclasses import dataclass

_LEAST_BODY = 1 << 20
_BYTES_A_TOKEN, _LEAST_TEXT = 64, 1 << 16
"""As a request's prompt is bounded (`r1trt.serving.call`)."""
_ESCAPED = 6
"""JSON writes a character as six: \\u0041."""


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
