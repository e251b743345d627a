"""The generation model's tensors, named as Triton's OpenAI front end does, and requests made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from r1trt.errors import ConfigError
from r1trt.runtime.sampling import SamplingConfig
from r1trt.runtime.tokenizer import TextTokenizer
from r1trt.serving.request import GenerationRequest, RequestError

DEFAULT_MAX_TOKENS = 256
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One input or output.

    Attributes:
        name: Its name.
        dtype: Triton's type without its prefix, such as "INT32".
        description: What it means.
        is_list: Any number of elements; otherwise exactly one.
    """

    name: str
    dtype: str
    description: str
    is_list: bool = False


INPUTS = (
    Tensor(name="text_input", dtype="STRING", description="the prompt"),
    Tensor(
        name="messages",
        dtype="STRING",
        description='a conversation in the place of text_input: JSON, `[{"role": ..., "content": ...}, ...]`',
    ),
    Tensor(
        name="chat",
        dtype="BOOL",
        description="put the model's chat template around text_input, a message of the user; default false",
    ),
    Tensor(
        name="max_tokens",
        dtype="INT32",
        description=f"stop after this many; default {DEFAULT_MAX_TOKENS}, or what the cache has room for",
    ),
    Tensor(
        name="stream",
        dtype="BOOL",
        description="send text as it is generated; default false: one response with all of it",
    ),
    Tensor(name="temperature", dtype="FP32", description="default 0: the most likely token; above, sample"),
    Tensor(name="top_k", dtype="INT32", description="sample from this many most likely ones; default 0: all"),
    Tensor(
        name="top_p",
        dtype="FP32",
        description="sample from the most likely tokens that hold this much probability; default 1",
    ),
    Tensor(name="seed", dtype="UINT64", description="of the random numbers; default 0"),
    Tensor(
        name="stop_words",
        dtype="STRING",
        is_list=True,
        description="texts that end the generation; they are not given out",
    ),
    Tensor(name="return_num_input_tokens", dtype="BOOL", description="default true"),
    Tensor(name="return_num_output_tokens", dtype="BOOL", description="default true"),
    Tensor(name="frequency_penalty", dtype="FP32", description="accepted for the front end; only 0"),
    Tensor(name="presence_penalty", dtype="FP32", description="accepted for the front end; only 0"),
)

OUTPUTS = (
    Tensor(name="text_output", dtype="STRING", description="new text, whole characters"),
    Tensor(
        name="finish_reason",
        dtype="STRING",
        description='"eos", "stop" or "length" in the last response, empty before',
    ),
    Tensor(name="num_input_tokens", dtype="UINT32", description="tokens of the prompt, template included"),
    Tensor(
        name="num_output_tokens", dtype="UINT32", description="tokens generated since the response before"
    ),
)

# Parameters of a request that Triton itself or its front ends set.
_OWN_PARAMETERS = ("triton_", "sequence_", "priority", "timeout", "binary_data_output")


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


def call_from_tensors(
    tensors: Mapping[str, Array],
    parameters: Mapping[str, Any],
    tokenizer: TextTokenizer,
    capacity: int,
) -> Call:
    """Checks a request's tensors and makes tokens of its prompt.

    Args:
        tensors: By name; those not given are absent.
        parameters: Named values that are not tensors: what a request sends under names that no input has.
        tokenizer: The model's.
        capacity: Tokens that a row of the cache holds, for the default of max_tokens.

    Raises:
        RequestError: Says which value is wrong, and what is expected.
    """
    _refuse_unknown(parameters)
    given = [tensor for tensor in INPUTS if tensor.name in tensors]
    values = {tensor.name: _value(tensor, tensors[tensor.name]) for tensor in given}
    for name in ("frequency_penalty", "presence_penalty"):
        if values.get(name, 0.0) != 0.0:
            raise RequestError(f"{name} is not supported.", found=values[name], expected=0)
    prompt_ids = _prompt_ids(values, tokenizer)
    room = max(capacity - len(prompt_ids) + 1, 1)
    try:
        request = GenerationRequest(
            prompt_ids=tuple(prompt_ids),
            max_new_tokens=values.get("max_tokens", min(DEFAULT_MAX_TOKENS, room)),
            sampling=SamplingConfig(
                temperature=values.get("temperature", 0.0),
                top_k=values.get("top_k", 0),
                top_p=values.get("top_p", 1.0),
                seed=values.get("seed", 0),
            ),
            stop=tuple(values.get("stop_words", ())),
        )
    except ConfigError as error:
        raise _request_error(error) from error
    return Call(
        request=request,
        stream=values.get("stream", False),
        count_input=values.get("return_num_input_tokens", True),
        count_output=values.get("return_num_output_tokens", True),
    )


def _refuse_unknown(parameters: Mapping[str, Any]) -> None:
    unknown = [name for name in parameters if not name.startswith(_OWN_PARAMETERS)]
    if unknown:
        raise RequestError(
            "The request has parameters that the model does not know.",
            found=", ".join(sorted(unknown)),
            expected=", ".join(tensor.name for tensor in INPUTS),
        )


def _value(tensor: Tensor, array: Array) -> Any:
    elements = [_element(tensor, element) for element in array.reshape(-1).tolist()]
    if tensor.is_list:
        return elements
    if len(elements) != 1:
        raise RequestError(
            f"{tensor.name} has the wrong size.", found=f"shape {list(array.shape)}", expected="one element"
        )
    return elements[0]


def _element(tensor: Tensor, element: Any) -> Any:
    if tensor.dtype != "STRING":
        return element
    try:
        return element.decode("utf-8") if isinstance(element, bytes) else str(element)
    except UnicodeDecodeError as error:
        raise RequestError(f"{tensor.name} is not UTF-8.", found=error) from error


def _prompt_ids(values: Mapping[str, Any], tokenizer: TextTokenizer) -> list[int]:
    if ("text_input" in values) == ("messages" in values):
        raise RequestError(
            "Give either text_input or messages.", found="both" if "messages" in values else "neither"
        )
    if "messages" not in values:
        text = values["text_input"]
        if not text:
            raise RequestError("The prompt is empty.", where="text_input", expected="some text")
        if not values.get("chat", False):
            return tokenizer.encode(text)
        return _chat_ids([{"role": "user", "content": text}], tokenizer)
    try:
        messages = json.loads(values["messages"])
    except (ValueError, RecursionError) as error:
        raise RequestError("messages is not JSON.", found=error) from error
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise RequestError(
            "messages is not a conversation.",
            expected='a list, not empty, of {"role": "...", "content": "..."}',
        )
    return _chat_ids(messages, tokenizer)


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
    )


def _chat_ids(messages: list[dict[str, Any]], tokenizer: TextTokenizer) -> list[int]:
    try:
        return tokenizer.encode_chat(messages)
    except ConfigError as error:
        raise _request_error(error) from error


def _request_error(error: ConfigError) -> RequestError:
    """The same message as the client's fault."""
    details = error.details
    return RequestError(error.message, found=details.get("found"), expected=details.get("expected"))
