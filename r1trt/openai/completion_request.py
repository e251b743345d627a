"""Requests of /v1/completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from r1trt.openai.asked import MOST_CHOICES, MOST_LOGPROBS, MOST_TOKENS, Asked, asked_from
from r1trt.openai.errors import invalid
from r1trt.openai.values import Values

_MAX_TOKENS = 16
"""Where a request does not say; OpenAI's own."""
_MOST_TOKEN = 2**63 - 1


def completion_from_values(values: Values) -> Asked:
    """Reads a request.

    Raises:
        ApiError: Says which value is wrong.
    """
    echo = values.flag("echo")
    max_tokens = values.integer("max_tokens", 0, MOST_TOKENS)
    if max_tokens == 0 and not echo:
        raise invalid("max_tokens is 0, and echo is not set: nothing is asked for.", "max_tokens")
    own: dict[str, Any] = {"max_tokens": _MAX_TOKENS if max_tokens is None else max_tokens}
    if echo:
        own["exclude_input_in_output"] = False
    logprobs = values.integer("logprobs", 0, MOST_LOGPROBS)
    if logprobs is not None:
        own["logprobs"] = logprobs
    prompts = _prompts(values.take("prompt"))
    values.require_only("suffix", "")
    values.require_only("best_of", 1)
    values.require_only("add_special_tokens", True)
    return asked_from(values, prompts, own)


def _prompts(prompt: Any) -> tuple[Mapping[str, Any], ...]:
    """One prompt or several, each a text or tokens."""
    one = _one(prompt)
    if one is not None:
        return (one,)
    several = [_one(part) for part in prompt] if isinstance(prompt, list) else []
    found = tuple(part for part in several if part is not None)
    if not found or len(found) < len(several):
        raise invalid(
            "prompt is a string, a list of tokens, or a list of either; none of them is empty.", "prompt"
        )
    if len(found) > MOST_CHOICES:
        raise invalid(f"{len(found)} prompts are given; {MOST_CHOICES} at a time are taken.", "prompt")
    return found


def _one(prompt: Any) -> Mapping[str, Any] | None:
    if isinstance(prompt, str) and prompt:
        return {"text_input": prompt}
    if isinstance(prompt, list) and prompt and all(map(_is_token, prompt)):
        return {"input_ids": prompt}
    return None


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKEN
