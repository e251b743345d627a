"""Requests of /v1/chat/completions."""

from __future__ import annotations

import json
from typing import Any

from r1trt.openai.asked import MOST_LOGPROBS, MOST_TOKENS, Asked, asked_from
from r1trt.openai.errors import invalid
from r1trt.openai.values import Values, shown
from r1trt.serving.fields import ALL_THERE_IS_ROOM_FOR

# As in `asked`, of chats alone.
_NOT_DONE: dict[str, tuple[object, ...]] = {
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "reasoning_effort": (),
    "verbosity": ("medium",),
    "prediction": (),
    "audio": (),
    "web_search_options": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "include_reasoning": (True,),
}


def chat_from_values(values: Values) -> Asked:
    """Reads a request.

    What the model thinks comes beside its answer; without a limit it may write what there is room for.

    Raises:
        ApiError: Says which value is wrong.
    """
    own: dict[str, Any] = {"max_tokens": _max_tokens(values), "thinking": "split"}
    logprobs, top = values.flag("logprobs"), values.integer("top_logprobs", 0, MOST_LOGPROBS)
    if top is not None and not logprobs:
        raise invalid("top_logprobs needs logprobs to be true.", "top_logprobs")
    if logprobs:
        own["logprobs"] = top or 0
    prompt = {"messages": json.dumps(_messages(values.take("messages")), ensure_ascii=False)}
    if tools := _tools(values):
        prompt["tools"] = json.dumps(tools, ensure_ascii=False)
    for name, allowed in _NOT_DONE.items():
        values.require_only(name, *allowed)
    return asked_from(values, (prompt,), own)


def _max_tokens(values: Values) -> int:
    newer = values.integer("max_completion_tokens", 1, MOST_TOKENS)
    older = values.integer("max_tokens", 1, MOST_TOKENS)
    if newer is not None and older is not None and newer != older:
        raise invalid("max_tokens and max_completion_tokens differ: give one.", "max_tokens")
    return newer or older or ALL_THERE_IS_ROOM_FOR


def _messages(messages: Any) -> list[Any]:
    """Messages for a template, which knows no newer role, and may ask whether there is a key, null or not."""
    if not isinstance(messages, list) or not messages:
        raise invalid("messages is a list of messages, with one or more.", "messages")
    return [_message(message) for message in messages]


def _message(message: Any) -> Any:
    if not isinstance(message, dict):
        return message  # which the model refuses, and says where
    kept = {name: value for name, value in message.items() if value is not None or name == "content"}
    return {**kept, "role": "system"} if kept.get("role") == "developer" else kept


def _tools(values: Values) -> list[Any]:
    tools, choice = values.take("tools"), values.take("tool_choice")
    if tools is not None and not isinstance(tools, list):
        raise invalid("tools is of the wrong type: a list of tools is expected.", "tools")
    if choice not in (None, "auto", "none"):
        raise invalid(
            f'tool_choice {shown(choice)} is not supported: the model chooses ("auto"), or there is no tool'
            ' ("none").', "tool_choice", "unsupported_value",
        )  # fmt: skip
    return [] if choice == "none" else tools or []
