from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from r1trt.frontends.triton.tensors import values_from_tensors
from r1trt.runtime.sampling import SamplingConfig
from r1trt.runtime.sampling_defaults import SamplingDefaults
from r1trt.serving.call import Call, call_from_values, most_prompt_bytes
from r1trt.serving.fields import DEFAULT_MAX_TOKENS, REQUEST_FIELDS
from r1trt.serving.request import RequestError
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir

CAPACITY = 64
QUESTION = b'[{"role": "user", "content": "a"}]'
TOOLS = b'[{"type": "function", "function": {"name": "f"}}]'
NUMPY_TYPES = {
    "STRING": np.object_, "BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32,
    "UINT64": np.uint64,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tiny_engine: Path) -> TextTokenizer:
    return tokenizer_from_dir(tiny_engine)


def call(tokenizer: TextTokenizer, parameters: dict[str, Any] | None = None, **values: Any) -> Call:
    types = {field.name: NUMPY_TYPES[field.dtype] for field in REQUEST_FIELDS}
    tensors = {name: np.array([value], types[name]) for name, value in values.items()}
    return call_from_values(values_from_tensors(tensors, parameters or {}), tokenizer, CAPACITY)


def test_defaults_are_greedy_and_fill_the_cache(tokenizer: TextTokenizer) -> None:
    made = call(tokenizer, text_input=b"Every function")
    assert made.request.prompt_ids == tuple(tokenizer.encode("Every function"))
    assert made.request.sampling.temperature == 0.0
    assert made.request.budget == CAPACITY < DEFAULT_MAX_TOKENS
    assert not made.stream and made.count_input and made.count_output


def test_every_value_reaches_the_request(tokenizer: TextTokenizer) -> None:
    made = call(
        tokenizer, text_input=[b"a"], max_tokens=[3], stream=[True],
        temperature=[0.5], top_k=[4], top_p=[0.75], seed=[2**64 - 1],
        stop_words=[b"x", b"\xc3\xa9"], return_num_input_tokens=[False], thinking=[b"hide"],
        ignore_eos=[True],
    )  # fmt: skip
    sampling = made.request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 4, 0.75)
    assert sampling.seed == 2**64 - 1
    assert made.request.max_new_tokens == 3 and made.request.stop == ("x", "é")
    assert made.request.thinking == "hide" and made.request.ignores_eos
    assert made.stream and not made.count_input and made.count_output


def test_the_models_own_sampling_holds_where_a_request_does_not_say(tokenizer: TextTokenizer) -> None:
    own = SamplingDefaults(temperature=0.6, top_p=0.95)
    made = call_from_values({"text_input": "a"}, tokenizer, CAPACITY, own)
    assert made.request.sampling == SamplingConfig(temperature=0.6, top_p=0.95)
    made = call_from_values({"text_input": "a", "temperature": 0.0, "top_k": 3}, tokenizer, CAPACITY, own)
    assert made.request.sampling == SamplingConfig(top_k=3, top_p=0.95)


def test_a_request_may_take_all_the_room_that_there_is(tokenizer: TextTokenizer) -> None:
    for prompt in (b"a", b"Every function that there is"):
        assert call(tokenizer, text_input=prompt, max_tokens=-1).request.budget == CAPACITY


def test_a_prompt_may_be_tokens(tokenizer: TextTokenizer) -> None:
    made = call(tokenizer, input_ids=[5, 7, 5], logprobs=[2], exclude_input_in_output=[False])
    assert made.request.prompt_ids == (5, 7, 5) and made.request.scores_prompt
    assert made.request.echo == tokenizer.decode([5, 7, 5], skip_special_tokens=False)


def test_the_prompt_is_echoed_as_it_was_given(tokenizer: TextTokenizer) -> None:
    text = "Every  function \U0001f999"
    made = call(tokenizer, text_input=text.encode(), exclude_input_in_output=False)
    assert made.request.echo == text and not made.request.scores_prompt
    assert call(tokenizer, text_input=text.encode(), exclude_input_in_output=True).request.echo is None
    assert call(tokenizer, text_input=text.encode(), logprobs=0).request.scores_prompt is False


def test_chat_template_is_put_around_a_text_and_around_messages(tokenizer: TextTokenizer) -> None:
    messages = [{"role": "user", "content": "Every function"}]
    expected = tuple(tokenizer.encode_chat(messages))
    assert call(tokenizer, text_input=b"Every function", chat=True).request.prompt_ids == expected
    assert call(tokenizer, messages=json.dumps(messages).encode()).request.prompt_ids == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"one of text_input, messages, input_ids(.|\n)*none of them"),
        ({"text_input": b"a", "messages": b"[]"}, r"one of(.|\n)*text_input and messages"),
        ({"text_input": b"a", "input_ids": [1]}, r"one of(.|\n)*text_input and input_ids"),
        ({"text_input": b""}, "prompt is empty"),
        ({"text_input": b"\xff"}, "text_input is not UTF-8"),
        ({"text_input": b"a", "max_tokens": 0}, "max_tokens is too small"),
        ({"text_input": b"a", "max_tokens": -2}, "max_tokens is too small"),
        ({"text_input": b"a", "max_tokens": [1, 2]}, "max_tokens has the wrong size"),
        ({"text_input": b"a", "temperature": -1.0}, "temperature is out of range"),
        ({"text_input": b"a", "temperature": float("nan")}, "temperature is out of range"),
        ({"text_input": b"a", "top_p": 0.0}, "top_p is out of range"),
        ({"text_input": b"a", "top_k": -1}, "top_k is out of range"),
        ({"text_input": b"a", "stop_words": [b"x"] * 17}, "Too many stop texts"),
        ({"text_input": b"a", "thinking": b"loud"}, r"thinking has an unknown value(.|\n)*show, hide, only"),
        ({"text_input": b"a", "frequency_penalty": 0.5}, "frequency_penalty is not supported"),
        ({"text_input": b"a", "logprobs": -1}, "logprobs is out of range"),
        ({"text_input": b"a", "logprobs": 21}, "logprobs is out of range"),
        ({"text_input": b"a", "tools": b"[]"}, "tools are for messages alone"),
        ({"messages": QUESTION, "tools": b"{}"}, "tools is no list of tools"),
        ({"messages": QUESTION, "tools": b"[{}]"}, r"This is no tool(.|\n)*tool 0"),
        ({"messages": QUESTION, "tools": TOOLS}, "chat template takes no tools"),
        ({"messages": b"{"}, "messages is not JSON"),
        ({"messages": b"[" * 50_000}, "messages is not JSON"),
        ({"messages": b"[]"}, "messages is not a conversation"),
        ({"messages": b'[{"role": "user"}]'}, r"messages is not a conversation(.|\n)*message 0"),
        ({"messages": b'{"role": "user", "content": "a"}'}, "messages is not a conversation"),
    ],
)
def test_bad_values_are_named(tokenizer: TextTokenizer, values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        call(tokenizer, **values)


def test_unknown_parameters_are_refused_and_the_servers_own_are_not(tokenizer: TextTokenizer) -> None:
    call(tokenizer, {"triton_enable_empty_final_response": True, "priority": 0}, text_input=b"a")
    with pytest.raises(RequestError, match="does not know") as error:
        call(tokenizer, {"max_new_tokens": 3}, text_input=b"a")
    assert error.value.details["found"] == "max_new_tokens"
    assert "max_tokens" in error.value.details["expected"]


def test_what_clients_of_other_servers_send_for_nothing_is_accepted(tokenizer: TextTokenizer) -> None:
    plain = call(tokenizer, text_input=b"a").request
    assert call(tokenizer, {"id": "42", "bad_words": ""}, text_input=b"a").request == plain
    assert call(tokenizer, text_input=b"a", stop_words=[b""]).request == plain
    assert call(tokenizer, text_input=b"a", stop_words=[b"", b"x"]).request.stop == ("x",)
    with pytest.raises(RequestError, match="does not know"):
        call(tokenizer, {"bad_words": "x"}, text_input=b"a")


def test_contents_may_be_parts(tokenizer: TextTokenizer) -> None:
    parts = [{"type": "text", "text": "Every"}, {"type": "text", "text": "function"}]
    made = call(tokenizer, messages=json.dumps([{"role": "user", "content": parts}]).encode())
    expected = tokenizer.encode_chat([{"role": "user", "content": "Every\nfunction"}])
    assert made.request.prompt_ids == tuple(expected)


def test_penalties_of_zero_are_accepted(tokenizer: TextTokenizer) -> None:
    call(tokenizer, text_input=b"a", frequency_penalty=0.0, presence_penalty=0.0)


@pytest.mark.parametrize("name", ["text_input", "messages"])
def test_a_prompt_far_beyond_the_cache_is_refused_before_it_is_read(
    tokenizer: TextTokenizer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"a" * (most_prompt_bytes(CAPACITY) + 1)
    for work in ("encode", "encode_chat"):
        monkeypatch.setattr(TextTokenizer, work, None)
    with pytest.raises(RequestError, match=f"{name} is too long for the engine's cache") as caught:
        call(tokenizer, **{name: text})
    assert f"found: {len(text)} bytes" in str(caught.value)


def test_the_longest_prompt_grows_with_the_cache() -> None:
    assert most_prompt_bytes(16) == 65536
    assert most_prompt_bytes(131072) == 64 * 131072


def test_text_that_is_no_unicode_is_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(RequestError, match="messages is no Unicode text") as caught:
        call(tokenizer, messages=rb'[{"role": "user", "content": "\ud800"}]')
    assert "a lone surrogate at character 30" in str(caught.value)


@pytest.mark.parametrize("levels", [40, 990, 5000])
def test_messages_are_nested_only_so_deep(tokenizer: TextTokenizer, levels: int) -> None:
    nested = b'[{"role": "user", "content": "a", "x": ' + b"[" * levels + b"]" * levels + b"}]"
    with pytest.raises(RequestError, match=r"nested too deep|is not JSON"):
        call(tokenizer, messages=nested)


def test_the_size_of_messages_is_that_of_what_was_sent(tokenizer: TextTokenizer) -> None:
    # Written with spaces behind commas these would be half as long again.
    numbers = ",".join("1" * (most_prompt_bytes(CAPACITY) // 2 - 100))
    call(tokenizer, messages=f'[{{"role":"user","content":"a","x":[{numbers}]}}]'.encode())


def test_stop_texts_are_bounded(tokenizer: TextTokenizer) -> None:
    assert call(tokenizer, text_input=b"a", stop_words=b"x" * 1000).request.stop == ("x" * 1000,)
    with pytest.raises(RequestError, match="A stop text is too long") as caught:
        call(tokenizer, text_input=b"a", stop_words=b"x" * 1001)
    assert "1001 characters" in str(caught.value)
