"""Which of the server's errors is that of a full queue."""

from __future__ import annotations

import json

import pytest

from r1trt.serving.request import QUEUE_FULL
from r1trt.triton_server.http_answer import _says_full


@pytest.mark.parametrize(
    ("text", "full"),
    [
        (f"{QUEUE_FULL}\n  found: 2 requests waiting", True),
        (f"[request id: 42] {QUEUE_FULL}", True),
        (f"thinking has an unknown value.\n  found: {QUEUE_FULL}", False),
        (f"[request id: {QUEUE_FULL}] text_input is empty", False),
    ],
)
def test_its_own_words_begin_it(text: str, full: bool) -> None:
    assert _says_full(json.dumps({"error": text}).encode()) == full


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"error": 1}', QUEUE_FULL.encode(), b"[" * 100_000])
def test_other_bodies_are_none(body: bytes) -> None:
    assert not _says_full(body)
