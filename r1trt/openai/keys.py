"""Who may ask."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from r1trt.openai.errors import ApiError

_UNAUTHORIZED = 401


class ApiKeys:
    """Keys of which a client has to send one; without any, everybody may ask.

    Args:
        keys: As clients send them.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._hashes = [_hash(key) for key in keys]

    def require(self, authorization: str | None) -> None:
        """Checks a request's `Authorization`; how long that takes says nothing of the keys.

        Raises:
            ApiError: It has no key, or a wrong one.
        """
        if not self._hashes:
            return
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ApiError(
                _UNAUTHORIZED,
                "You didn't provide an API key: send it as a header, Authorization: Bearer KEY.",
                code="invalid_api_key",
            )
        given = _hash(key.strip())
        # All of them, whichever fits.
        if not any([hmac.compare_digest(given, known) for known in self._hashes]):
            raise ApiError(_UNAUTHORIZED, "Incorrect API key provided.", code="invalid_api_key")


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
