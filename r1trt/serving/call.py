"""A request as a transport hands it over: named values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1trt.errors import ConfigError
from r1trt.runtime.sampling_defaults import SamplingDefaults
from r1trt.serving.fields import ALL_THERE_IS_ROOM_FOR, DEFAULT_MAX_TOKENS, PROMPTS, TOO_LONG
from r1trt.serving.request import GenerationRequest, RequestError
from r1trt.strict_json import depth_exceeds
from r1trt.tokenizer.chat_template import Message
from r1trt.tokenizer.messages import messages_from_json
from r1trt.tokenizer.text_tokenizer import TextTokenizer
from r1trt.tokenizer.tools import Tool, tools_from_json

# Far more than a token stands for on average: what is longer cannot fit, and is not worth finding out.
LEAST_PROMPT_BYTES, BYTES_OF_TOKEN = 1 << 16, 64
# Of lists and objects in messages: what goes to a template has to be written as JSON again.
MOST_DEPTH = 32


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request and how its answer is to be sent.

    Attributes:
        request: What to generate.
        stream: Send text as it is generated.
        count_input: Send the prompt's number of tokens.
        count_output: Send the number of new tokens.
    """

    request: GenerationRequest
    stream: bool
    count_input: bool
    count_output: bool


def call_from_values(
    values: Mapping[str, Any],
    tokenizer: TextTokenizer,
    capacity: int,
    defaults: SamplingDefaults | None = None,
) -> Call:
    """Checks a request's values and makes tokens of its prompt.

    Args:
        values: By the names of `REQUEST_FIELDS`, in Python's types; those not given are absent.
        tokenizer: The model's.
        capacity: Tokens that a row of the cache holds, for the default of max_tokens.
        defaults: How tokens are chosen where a request does not say; by default the most likely ones.

    Raises:
        RequestError: Says which value is wrong, and what is expected.
    """
    for name in ("frequency_penalty", "presence_penalty"):
        if values.get(name, 0.0) != 0.0:
            raise RequestError(f"{name} is not supported.", found=values[name], expected=0)
    prompt_ids = _prompt_ids(values, tokenizer, most_prompt_bytes(capacity))
    try:
        request = GenerationRequest(
            prompt_ids=tuple(prompt_ids),
            max_new_tokens=_max_new_tokens(values, capacity - len(prompt_ids) + 1),
            sampling=(defaults or SamplingDefaults()).config(
                **{name: values.get(name) for name in ("temperature", "top_k", "top_p", "seed")}
            ),
            # Clients of other servers send an empty text for none.
            stop=tuple(filter(None, values.get("stop_words", ()))),
            thinking=values.get("thinking", "show"),
            logprobs=values.get("logprobs"),
            echo=_echo(values, tokenizer, prompt_ids),
            ignores_eos=values.get("ignore_eos", False),
        )
    except ConfigError as error:
        raise _request_error(error) from error
    return Call(
        request=request,
        stream=values.get("stream", False),
        count_input=values.get("return_num_input_tokens", True),
        count_output=values.get("return_num_output_tokens", True),
    )


def most_prompt_bytes(capacity: int) -> int:
    """Bytes of a prompt that are looked at, for a cache of so many tokens."""
    return max(LEAST_PROMPT_BYTES, BYTES_OF_TOKEN * capacity)


def _prompt_ids(values: Mapping[str, Any], tokenizer: TextTokenizer, most_bytes: int) -> list[int]:
    given = [name for name in PROMPTS if name in values]
    if len(given) != 1:
        raise RequestError(f"Give one of {', '.join(PROMPTS)}.", found=" and ".join(given) or "none of them")
    if "tools" in values and "messages" not in values:
        raise RequestError("tools are for messages alone.", found=given[0])
    if "input_ids" in values:
        return list(values["input_ids"])
    if "messages" not in values:
        text = values["text_input"]
        if not text:
            raise RequestError("The prompt is empty.", where="text_input", expected="some text")
        _require_text("text_input", text, most_bytes)
        if not values.get("chat", False):
            return tokenizer.encode(text)
        return _chat_ids([{"role": "user", "content": text}], tokenizer)
    try:
        conversation = messages_from_json(_json_of("messages", values["messages"], most_bytes))
        tools = tools_from_json(_json_of("tools", values.get("tools", "[]"), most_bytes))
    except ConfigError as error:
        raise RequestError(error.message, **error.details) from error
    return _chat_ids(conversation, tokenizer, tools)


def _max_new_tokens(values: Mapping[str, Any], room: int) -> int:
    room = max(room, 1)
    given: int = values.get("max_tokens", min(DEFAULT_MAX_TOKENS, room))
    return room if given == ALL_THERE_IS_ROOM_FOR else given


def _echo(values: Mapping[str, Any], tokenizer: TextTokenizer, prompt_ids: Sequence[int]) -> str | None:
    """The prompt as it is given out: as it was given, where that was a text."""
    if values.get("exclude_input_in_output", True):
        return None
    if "text_input" in values and not values.get("chat", False):
        return str(values["text_input"])
    return tokenizer.decode(prompt_ids, skip_special_tokens=False)


def _json_of(name: str, text: str, most_bytes: int) -> Any:
    """Parses a value that is JSON, as a template may be given it."""
    _require_text(name, text, most_bytes)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{name} is not JSON.", found=error) from error
    if depth_exceeds(value, MOST_DEPTH):
        raise RequestError(f"{name} is nested too deep.", expected=f"at most {MOST_DEPTH} levels")
    # JSON may spell half of a surrogate pair.
    _bytes_of(name, json.dumps(value, ensure_ascii=False))
    return value


def _require_text(name: str, text: str, most_bytes: int) -> None:
    """Raises RequestError for what is no Unicode text, or longer than any prompt that fits."""
    size = _bytes_of(name, text)
    if size > most_bytes:
        raise RequestError(
            f"{name} is {TOO_LONG}'s cache.",
            found=f"{size} bytes",
            expected=f"at most {most_bytes} bytes",
        )


def _bytes_of(name: str, text: str) -> int:
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{name} is no Unicode text.",
            found=f"a lone surrogate at character {error.start}",
            expected="text that UTF-8 can hold",
        ) from error


def _chat_ids(messages: Sequence[Message], tokenizer: TextTokenizer, tools: Sequence[Tool] = ()) -> list[int]:
    try:
        return tokenizer.encode_chat(messages, tools=tools)
    except ConfigError as error:
        raise _request_error(error) from error


def _request_error(error: ConfigError) -> RequestError:
    """The same message as the client's fault."""
    details = error.details  # `where` may be a path of the server's, `fix` is for who runs it
    return RequestError(error.message, found=details.get("found"), expected=details.get("expected"))
