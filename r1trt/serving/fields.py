"""What requests and responses consist of, whatever carries them; named as in Triton's OpenAI front end."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_MAX_TOKENS = 256
ALL_THERE_IS_ROOM_FOR = -1
"""As `max_tokens`."""

TOO_LONG = "too long for the engine"
"""In messages of what can never fit the cache."""

QUEUE_FULL, STOPPING = "The queue is full.", "The server is stopping."
"""How messages begin that say: ask again later."""

FAILED = "The model failed."
"""How messages begin that are not the request's fault; Triton's HTTP and its streams have no other status."""

PROMPTS = ("text_input", "messages", "input_ids")
"""Fields that a prompt stands in: one of them."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """One named value.

    Attributes:
        name: Its name.
        dtype: Its type, such as "INT32", as the KServe protocol names it.
        description: What it means.
        is_list: Any number of elements; otherwise exactly one.
    """

    name: str
    dtype: str
    description: str
    is_list: bool = False


REQUEST_FIELDS = (
    Field(name="text_input", dtype="STRING", description="the prompt"),
    Field(
        name="messages",
        dtype="STRING",
        description='a conversation in the place of text_input: JSON, `[{"role": ..., "content": ...}, ...]`',
    ),
    Field(
        name="input_ids",
        dtype="INT64",
        is_list=True,
        description="the prompt's tokens, in the place of text_input",
    ),
    Field(
        name="tools",
        dtype="STRING",
        description="tools that messages may call, for the model's chat template: JSON, a list of objects",
    ),
    Field(
        name="chat",
        dtype="BOOL",
        description="put the model's chat template around text_input, a message of the user; default false",
    ),
    Field(
        name="max_tokens",
        dtype="INT32",
        description=f"stop after this many; default {DEFAULT_MAX_TOKENS}, or what the cache has room for;"
        " -1: all of that",
    ),
    Field(
        name="stream",
        dtype="BOOL",
        description="send text as it is generated; default false: one response with all of it",
    ),
    Field(
        name="temperature",
        dtype="FP32",
        description="0: the most likely token; above, sample; default: the model's",
    ),
    Field(
        name="top_k",
        dtype="INT64",
        description="sample from this many most likely ones, 0 from all; default: the model's",
    ),
    Field(
        name="top_p",
        dtype="FP32",
        description="sample from the most likely tokens with this much probability; default: the model's",
    ),
    Field(name="seed", dtype="UINT64", description="of the random numbers; default 0"),
    Field(
        name="stop_words",
        dtype="STRING",
        is_list=True,
        description="texts that end the generation; they are not given out",
    ),
    Field(
        name="ignore_eos",
        dtype="BOOL",
        description="go on behind end-of-sequence tokens, to max_tokens, as benchmarks want; default false",
    ),
    Field(
        name="thinking",
        dtype="STRING",
        description="what is between <think> and </think>: `show` it with the answer, `hide` it,"
        " send it `only`, or `split`: beside the answer, as thinking_output; default show",
    ),
    Field(
        name="logprobs",
        dtype="INT32",
        description="say how likely each token was, and this many of the most likely ones",
    ),
    Field(
        name="exclude_input_in_output",
        dtype="BOOL",
        description="false: give the prompt out too, with logprobs its tokens' as well; default true",
    ),
    Field(name="return_num_input_tokens", dtype="BOOL", description="default true"),
    Field(name="return_num_output_tokens", dtype="BOOL", description="default true"),
    Field(name="frequency_penalty", dtype="FP32", description="accepted for the front end; only 0"),
    Field(name="presence_penalty", dtype="FP32", description="accepted for the front end; only 0"),
)

RESPONSE_FIELDS = (
    Field(name="text_output", dtype="STRING", description="new text, whole characters"),
    Field(
        name="finish_reason",
        dtype="STRING",
        description='"eos", "stop" or "length" in the last response, empty before',
    ),
    Field(name="num_input_tokens", dtype="UINT32", description="tokens of the prompt, template included"),
    Field(
        name="num_cached_tokens",
        dtype="UINT32",
        description="tokens of the prompt that stood in the cache, in the first response",
    ),
    Field(name="num_output_tokens", dtype="UINT32", description="tokens generated since the response before"),
    Field(
        name="thinking_output", dtype="STRING", description="new text of the thinking, where that is split"
    ),
    Field(
        name="num_thinking_tokens",
        dtype="UINT32",
        description="tokens known by now to have gone into thinking, and not before, where that is split",
    ),
    Field(
        name="token_logprobs",
        dtype="STRING",
        description="how likely the tokens were since the response before, where that was asked for: JSON",
    ),
)
