"""Conversations as clients send them, in the form that chat templates take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from r1trt.errors import ConfigError
from r1trt.tokenizer.chat_template import Message

_SHOWN = 60
EXPECTED = (
    'a list, not empty, of {"role": "...", "content": "..."}; content may be a list of'
    ' {"type": "text", "text": "..."}, or null beside tool_calls'
)


def messages_from_json(value: Any) -> tuple[Message, ...]:
    """Reads a conversation.

    Parts of a content are joined by line breaks, as vLLM and TensorRT-LLM do for templates that take a text.
    Whatever else a message holds is kept, for the template.

    Args:
        value: What JSON holds.

    Raises:
        ConfigError: It is no conversation; says which message is wrong, and how.
    """
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else type(value).__name__
        raise ConfigError("messages is not a conversation.", found=found, expected=EXPECTED)
    return tuple(_message(index, entry) for index, entry in enumerate(value))


def _message(index: int, entry: Any) -> Message:
    where = f"message {index}"
    if not isinstance(entry, Mapping):
        raise _error(where, type(entry).__name__)
    if not isinstance(entry.get("role"), str):
        raise _error(where, "no role" if "role" not in entry else f"a role of {_shown(entry['role'])}")
    if "content" not in entry and not entry.get("tool_calls"):
        raise _error(where, "no content")
    return {**entry, "content": _content(where, entry)}


def _content(where: str, entry: Mapping[str, Any]) -> str | None:
    content = entry.get("content")
    if isinstance(content, str):
        return content
    if content is None and entry.get("tool_calls"):
        return None
    if not isinstance(content, list):
        raise _error(where, f"a content of {_shown(content)}")
    return "\n".join(_part(f"{where}, part {index}", part) for index, part in enumerate(content))


def _part(where: str, part: Any) -> str:
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else None
    if isinstance(text, str):
        return text
    found = (
        f"a part of type {_shown(part['type'])}"
        if isinstance(part, Mapping) and "type" in part
        else "no text"
    )
    raise _error(where, found)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _error(where: str, found: str) -> ConfigError:
    return ConfigError("messages is not a conversation.", where=where, found=found, expected=EXPECTED)
