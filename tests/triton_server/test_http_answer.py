"""What the server's errors mean."""

from __future__ import annotations

import json

import pytest

from r1trt.serving.fields import FAILED, QUEUE_FULL, STOPPING
from r1trt.triton_server.http_answer import _status


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (f"{QUEUE_FULL}\n  found: 2 requests waiting", 503),
        (f"[request id: 42] {QUEUE_FULL}", 503),
        (f"{STOPPING}\n  fix: send the request again later", 503),
        (f"{FAILED}\nThe model's logits are not finite numbers.", 500),
        (f"thinking has an unknown value.\n  found: {QUEUE_FULL}", 400),
        (f"[request id: {QUEUE_FULL}] text_input is empty", 400),
    ],
)
def test_its_own_words_begin_it(text: str, status: int) -> None:
    assert _status(json.dumps({"error": text}).encode()) == status


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"error": 1}', QUEUE_FULL.encode(), b"[" * 100_000])
def test_other_bodies_are_none(body: bytes) -> None:
    assert _status(body) == 400
