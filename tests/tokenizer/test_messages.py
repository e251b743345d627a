"""Conversations in the forms that clients send."""

from __future__ import annotations

from typing import Any

import pytest

from r1trt.errors import ConfigError
from r1trt.tokenizer.messages import messages_from_json

CALLS = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hi", "Hi"),
        ("", ""),
        ([{"type": "text", "text": "Hi"}], "Hi"),
        ([{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}], "Hi\nthere"),
        ([{"text": "Hi"}], "Hi"),
        (["Hi", {"type": "text", "text": "there"}], "Hi\nthere"),
        ([], ""),
    ],
)
def test_contents_become_texts(content: Any, text: str) -> None:
    assert messages_from_json([{"role": "user", "content": content}]) == ({"role": "user", "content": text},)


@pytest.mark.parametrize("given", [{"content": None}, {}])
def test_calls_of_tools_need_no_content(given: dict[str, Any]) -> None:
    (message,) = messages_from_json([{"role": "assistant", "tool_calls": CALLS, **given}])
    assert message == {"role": "assistant", "content": None, "tool_calls": CALLS}


def test_other_keys_are_kept() -> None:
    message = {"role": "tool", "content": "4", "tool_call_id": "1", "name": "add"}
    assert messages_from_json([message]) == (message,)


IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
GOOD = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("value", "where", "found"),
    [
        ([], None, "an empty list"),
        (GOOD, None, "dict"),
        ("Hi", None, "str"),
        (["Hi"], "message 0", "str"),
        ([GOOD, {"content": "Hi"}], "message 1", "no role"),
        ([{"role": 1, "content": "Hi"}], "message 0", "a role of 1"),
        ([{"role": "user"}], "message 0", "no content"),
        ([{"role": "user", "content": None}], "message 0", "a content of None"),
        ([{"role": "assistant", "content": None, "tool_calls": []}], "message 0", "a content of None"),
        ([{"role": "user", "content": 3}], "message 0", "a content of 3"),
        ([{"role": "user", "content": ["a", IMAGE]}], "message 0, part 1", "type 'image_url'"),
        ([{"role": "user", "content": [3]}], "message 0, part 0", "no text"),
        ([{"role": "user", "content": [{"type": "text", "text": 3}]}], "message 0, part 0", "type 'text'"),
    ],
)
def test_what_is_no_conversation(value: Any, where: str | None, found: str) -> None:
    with pytest.raises(ConfigError, match="messages is not a conversation") as caught:
        messages_from_json(value)
    assert caught.value.details.get("where") == where
    assert found in str(caught.value.details["found"])
