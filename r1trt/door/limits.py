"""Limits of what listens: sizes and times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
        body_bytes_of: Of a request's body by the model that it asks; of others it is `body_bytes`.
    """

    body_bytes: int = _LEAST_BODY
    head_bytes: int = 1 << 15
    head_s: float = 75.0
    body_s: float = 60.0
    connections: int = 1024
    depth: int = 64
    body_bytes_of: Mapping[str, int] = field(default_factory=dict)

    def for_model(self, name: object) -> int:
        """Bytes of the body of a request to a model, whatever the request calls it."""
        return self.body_bytes_of.get(name, self.body_bytes) if isinstance(name, str) else self.body_bytes

    @classmethod
    def for_models(cls, capacities: Mapping[str, int]) -> DoorLimits:
        """Room for the longest prompt of each model, which holds so many tokens."""
        of = {name: cls.for_capacity(capacity).body_bytes for name, capacity in capacities.items()}
        return cls(body_bytes=max(of.values()), body_bytes_of=of)

    @classmethod
    def for_capacity(cls, capacity: int) -> DoorLimits:
        """Room for the longest prompt of a model with `capacity` tokens, every character of it escaped."""
        text = max(_LEAST_TEXT, _BYTES_A_TOKEN * capacity)
        return cls(body_bytes=max(_LEAST_BODY, _ESCAPED * text + _LEAST_TEXT))
