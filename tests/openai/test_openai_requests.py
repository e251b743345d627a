"""What requests of both kinds ask the model for, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from r1trt.openai.asked import MOST_CHOICES, Asked
from r1trt.openai.chat_request import chat_from_values
from r1trt.openai.completion_request import completion_from_values
from r1trt.openai.errors import ApiError
from r1trt.openai.values import Values
from r1trt.serving.fields import ALL_THERE_IS_ROOM_FOR, REQUEST_FIELDS

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "add"}}


def chat(**body: Any) -> Asked:
    return chat_from_values(Values({"model": "m", "messages": HELLO, **body}))


def completion(**body: Any) -> Asked:
    return completion_from_values(Values({"model": "m", "prompt": "Hello", **body}))


def test_a_chat_gets_all_the_room_and_its_thinking_beside_it() -> None:
    (call,) = chat().calls
    seed = call.pop("seed")
    assert 0 <= seed < 2**64
    assert call == {
        "messages": json.dumps(HELLO),
        "max_tokens": ALL_THERE_IS_ROOM_FOR,
        "thinking": "split",
        "stream": True,
    }


def test_every_value_of_a_chat_reaches_the_model() -> None:
    asked = chat(
        max_completion_tokens=7, temperature=0.5, top_p=0, top_k=-1, stop="x", n=3, seed=2**64 - 1,
        stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True},
        logprobs=True, top_logprobs=4, tools=[TOOL], user="me",
    )  # fmt: skip
    assert asked.stream and asked.include_usage and asked.continuous_usage
    calls = asked.calls
    assert [call["seed"] for call in calls] == [2**64 - 1, 0, 1], "each text has its own"
    assert calls[0]["max_tokens"] == 7 and calls[0]["temperature"] == 0.5 and calls[0]["top_k"] == 0
    assert 0 < calls[0]["top_p"] < 1e-3, "0 is the most likely token alone"
    assert calls[0]["stop_words"] == ["x"] and calls[0]["logprobs"] == 4
    assert json.loads(calls[0]["tools"]) == [TOOL]
    assert calls[0].keys() <= {field.name for field in REQUEST_FIELDS}


def test_seeds_are_drawn_where_none_is_given() -> None:
    assert len({chat().seed for _ in range(8)}) == 8
    assert chat(seed=-1).calls[0]["seed"] == 2**64 - 1 and chat(seed=0).calls[0]["seed"] == 0


def test_values_that_ask_for_nothing_are_as_good_as_none() -> None:
    nothing = {
        "stop": None, "logit_bias": {}, "frequency_penalty": 0, "presence_penalty": 0.0, "tools": [], "n": 1,
        "response_format": {"type": "text"}, "tool_choice": "auto", "ignore_eos": False, "stream": False,
        "repetition_penalty": 1.0, "seed": 3, "metadata": {"a": "b"}, "service_tier": "auto",
        "logprobs": False,
    }  # fmt: skip
    assert chat(**nothing) == chat(seed=3)
    assert chat(tools=[TOOL], tool_choice="none", seed=3) == chat(seed=3)


def test_messages_are_made_for_templates() -> None:
    messages = [
        {"role": "developer", "content": "Be brief.", "name": None},
        {"role": "assistant", "content": None, "tool_calls": None, "refusal": None},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        "what the model refuses",
    ]
    assert json.loads(chat(messages=messages).calls[0]["messages"]) == [
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        "what the model refuses",
    ]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", [{"text_input": "a"}]),
        (["a", "b"], [{"text_input": "a"}, {"text_input": "b"}]),
        ([1, 2], [{"input_ids": [1, 2]}]),
        ([[1, 2], [3]], [{"input_ids": [1, 2]}, {"input_ids": [3]}]),
    ],
)
def test_prompts_are_texts_or_tokens(prompt: Any, expected: list[dict[str, Any]]) -> None:
    assert list(completion(prompt=prompt).prompts) == expected
    calls = completion(prompt=prompt, n=2, seed=5).calls
    assert [call["seed"] for call in calls] == [5, 6] * len(expected)


def test_a_completion_is_short_and_may_echo_its_prompt() -> None:
    (call,) = completion(seed=0).calls
    assert call == {"text_input": "Hello", "max_tokens": 16, "seed": 0, "stream": True}
    (call,) = completion(seed=0, max_tokens=0, echo=True, logprobs=1, best_of=1, suffix="").calls
    assert call["max_tokens"] == 0 and call["logprobs"] == 1 and call["exclude_input_in_output"] is False


BOTH: list[tuple[dict[str, Any], str, str | None]] = [
    ({"model": None}, "provide a model", "model"),
    ({"model": 3}, "model is of the wrong type: 3", "model"),
    ({"n": 0}, "n is out of range: 0; 1 to 128", "n"),
    ({"n": 1.0}, "n is of the wrong type: 1.0; an integer", "n"),
    ({"temperature": "hot"}, 'temperature is of the wrong type: "hot"; a number', "temperature"),
    ({"temperature": -0.1}, "temperature is out of range", "temperature"),
    ({"top_p": 1.5}, "top_p is out of range", "top_p"),
    ({"top_k": -2}, "top_k is out of range", "top_k"),
    ({"seed": 2**64}, "seed is out of range", "seed"),
    ({"seed": True}, "seed is of the wrong type: true", "seed"),
    ({"stop": 3}, "stop is of the wrong type: 3; a string, or a list", "stop"),
    ({"stop": ["a", 3]}, "stop is of the wrong type", "stop"),
    ({"max_tokens": -1}, "max_tokens is out of range", "max_tokens"),
    ({"max_tokens": 2**31}, "max_tokens is out of range", "max_tokens"),
    ({"stream": "yes"}, 'stream is of the wrong type: "yes"; true or false', "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options is for streams", "stream_options"),
    ({"stream": True, "stream_options": []}, "stream_options is of the wrong type", "stream_options"),
    ({"stream": True, "stream_options": {"x": 1}}, 'Unrecognized request arguments: "x"', "x"),
    ({"frequency_penalty": 0.5}, "frequency_penalty 0.5 is not supported; 0 or 0.0 is", "frequency_penalty"),
    ({"logit_bias": {"5": 1}}, 'logit_bias {"5": 1} is not supported', "logit_bias"),
    ({"ignore_eos": 1}, "ignore_eos is of the wrong type: 1; true or false", "ignore_eos"),
    ({"max_new": 3, "é": 1}, 'Unrecognized request arguments: "max_new", "é"', "max_new"),
]  # fmt: skip
OF_CHATS: list[tuple[dict[str, Any], str, str | None]] = [
    ({"messages": None}, "messages is a list of messages", "messages"),
    ({"messages": []}, "messages is a list of messages", "messages"),
    ({"messages": "Hello"}, "messages is a list of messages", "messages"),
    ({"max_tokens": 0}, "max_tokens is out of range", "max_tokens"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "differ: give one", "max_tokens"),
    ({"logprobs": 3}, "logprobs is of the wrong type: 3; true or false", "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs needs logprobs", "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs is out of range", "top_logprobs"),
    ({"tools": {}}, "tools is of the wrong type", "tools"),
    ({"tools": [TOOL], "tool_choice": "required"}, 'tool_choice "required" is not supported', "tool_choice"),
    ({"tool_choice": TOOL}, "is not supported: the model chooses", "tool_choice"),
    ({"functions": [TOOL]}, "functions", "functions"),
    ({"response_format": {"type": "json_object"}}, "response_format", "response_format"),
    ({"reasoning_effort": "low"}, 'reasoning_effort "low" is not supported', "reasoning_effort"),
    ({"modalities": ["audio"]}, 'modalities ["audio"] is not supported; ["text"] is', "modalities"),
]  # fmt: skip
OF_COMPLETIONS: list[tuple[dict[str, Any], str, str | None]] = [
    ({"prompt": None}, "prompt is a string", "prompt"),
    ({"prompt": ""}, "none of them is empty", "prompt"),
    ({"prompt": ["a", ""]}, "none of them is empty", "prompt"),
    ({"prompt": [1, "a"]}, "prompt is a string", "prompt"),
    ({"prompt": [[1], []]}, "prompt is a string", "prompt"),
    ({"prompt": [-1]}, "prompt is a string", "prompt"),
    ({"prompt": [True]}, "prompt is a string", "prompt"),
    ({"prompt": ["a"] * (MOST_CHOICES + 1)}, "129 prompts are given", "prompt"),
    ({"prompt": ["a", "b"], "n": 100}, "200 texts are asked for", "n"),
    ({"max_tokens": 0}, "nothing is asked for", "max_tokens"),
    ({"logprobs": 21}, "logprobs is out of range", "logprobs"),
    ({"logprobs": True}, "logprobs is of the wrong type: true", "logprobs"),
    ({"best_of": 2}, "best_of 2 is not supported; 1 is", "best_of"),
    ({"suffix": "x"}, 'suffix "x" is not supported', "suffix"),
    ({"messages": HELLO}, 'Unrecognized request arguments: "messages"', "messages"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "body", "says", "param"),
    [
        *((chat, *case) for case in (*BOTH, *OF_CHATS)),
        *((completion, *case) for case in (*BOTH, *OF_COMPLETIONS)),
    ],
)
def test_what_is_wrong_is_named(kind: Any, body: dict[str, Any], says: str, param: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        kind(**body)
    error = caught.value
    assert error.status == 400 and says in error.message and error.param == param
    assert error.content["error"]["type"] == "invalid_request_error"
