"""Fields as the front door takes them."""

from __future__ import annotations

from typing import Any

import pytest

from r1trt.door.errors import RefusedError
from r1trt.triton_server.request_json import require_fields


@pytest.mark.parametrize(
    "fields",
    [
        {"text_input": "a"},
        {"messages": "[]", "id": "42", "bad_words": "", "unknown": 1},
        {"text_input": ["a"], "max_tokens": [3], "stop_words": ["x", ""], "stream": False},
        {"input_ids": [5, 7], "logprobs": 3, "exclude_input_in_output": False},
        {"text_input": "a", "parameters": {"max_tokens": 3, "stop_words": [""], "unknown": 1}},
        {
            "text_input": "a",
            "temperature": 0,
            "top_p": 0.5,
            "seed": 2**64 - 1,
            "top_k": 2**63 - 1,
            "max_tokens": -(2**31),
        },
    ],
)
def test_fields_of_their_types_pass(fields: dict[str, Any]) -> None:
    require_fields(fields, streams=False)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "There is no prompt: give text_input or messages or input_ids."),
        ({"max_tokens": 3}, "There is no prompt"),
        ({"text_input": ["a", "b"]}, "text_input takes one value, and 2 are given"),
        ({"text_input": "a", "max_tokens": []}, "max_tokens takes one value, and 0 are given"),
        ({"messages": [{"role": "user"}]}, "messages is of the wrong type: it is a text that holds the list"),
        ({"messages": "[]", "tools": [{}]}, "tools is of the wrong type: it is a text that holds the list"),
        ({"text_input": "a", "stop": ["x"]}, 'The model knows no field "stop"; it knows text_input'),
        ({"text_input": "a", "user": None}, 'knows no field "user"'),
        ({"text_input": "a", "te\0st": "a"}, "knows no field"),
        ({"text_input": "a", "id": 1}, "id is of the wrong type"),
        ({"text_input": "a", "parameters": [1]}, "parameters is of the wrong type"),
        ({"text_input": 7}, "text_input is of the wrong type: 7, where a text"),
        ({"text_input": None}, "text_input is of the wrong type: null"),
        ({"text_input": "a", "stop_words": ["x", 1]}, "stop_words is of the wrong type: 1"),
        ({"text_input": "a", "max_tokens": "3"}, 'max_tokens is of the wrong type: "3", where an integer'),
        ({"text_input": "a", "max_tokens": 3.0}, "max_tokens is of the wrong type: 3.0"),
        ({"text_input": "a", "max_tokens": True}, "max_tokens is of the wrong type: true"),
        ({"text_input": "a", "stream": 1}, "stream is of the wrong type: 1, where true or false"),
        ({"text_input": "a", "temperature": "hot"}, "temperature is of the wrong type"),
        ({"text_input": "a", "max_tokens": 2**31}, "max_tokens is out of range: -2147483648 to 2147483647"),
        ({"text_input": "a", "seed": [-1]}, "seed is out of range: 0 to"),
        ({"text_input": "a", "stream": True}, "ask generate_stream"),
        ({"text_input": "a", "stream": [True]}, "ask generate_stream"),
        ({"text_input": "a", "parameters": {"stream": True}}, "ask generate_stream"),
        ({"text_input": "a", "parameters": {"max_tokens": 4294967300}}, "max_tokens is out of range"),
        ({"text_input": "a", "parameters": {"temperature": "hot"}}, "temperature is of the wrong type"),
    ],
)
def test_fields_of_other_types_are_named(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(RefusedError) as caught:
        require_fields(fields, streams=False)
    assert caught.value.status == 400 and says in str(caught.value)


def test_a_stream_may_be_asked_for_where_there_is_one() -> None:
    require_fields({"text_input": "a", "stream": True}, streams=True)
