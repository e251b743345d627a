"""Tools that a model may call: how a chat template takes them, and how the model then writes its calls."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from r1trt.errors import ConfigError

Tool = Mapping[str, Any]

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
"""Around a call, `{"name": ..., "arguments": {...}}`, as Qwen's, Hermes' and other models write them."""

EXPECTED = 'a list of {"type": "function", "function": {"name": "...", "parameters": {...}}}'
# The variable, and not `tool` or `tool_calls`.
_TAKES_TOOLS = re.compile(r"\btools\b")
_ARGUMENTS_AS_OBJECTS = re.compile(r"\barguments\s*\|\s*tojson\b")


def tools_from_json(value: Any) -> tuple[Tool, ...]:
    """Reads tools as clients send them.

    Raises:
        ConfigError: They are none; says which one is wrong.
    """
    if not isinstance(value, list):
        raise ConfigError("tools is no list of tools.", found=type(value).__name__, expected=EXPECTED)
    for index, tool in enumerate(value):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(tool, Mapping) or tool.get("type") != "function" or not isinstance(name, str):
            raise ConfigError("This is no tool.", where=f"tool {index}", expected=EXPECTED)
    return tuple(value)


def require_tools_in(template: str) -> None:
    """Refuses a chat template that does not say how tools are put to the model, or called by it.

    Args:
        template: Jinja text.

    Raises:
        ConfigError: What of it is missing.
    """
    if not _TAKES_TOOLS.search(template):
        raise ConfigError("The model's chat template takes no tools.", expected="a request without tools")
    if CALL_OPEN not in template:
        raise ConfigError(
            "The model's chat template lets it call tools in a form that is not read here.",
            expected=f"calls between {CALL_OPEN} and {CALL_CLOSE}, or a request without tools",
        )


def messages_for_template(messages: Sequence[Mapping[str, Any]], template: str) -> list[dict[str, Any]]:
    """Messages whose earlier calls have their arguments as a template takes them.

    Clients send a text of JSON, which some templates write as it is; others make JSON of an object.

    Args:
        messages: A conversation.
        template: Jinja text.
    """
    if not _ARGUMENTS_AS_OBJECTS.search(template):
        return [dict(message) for message in messages]
    return [_with_objects(message) for message in messages]


def _with_objects(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return dict(message)
    return {**message, "tool_calls": [_call_with_object(call) for call in calls]}


def _call_with_object(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}
