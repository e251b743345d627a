"""A tokenizer of the tokenizers library by name of its calls; runs in a process with limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tokenizers

from r1trt.tokenizer.decode_stream import text_of_tokens

MOST_CHARACTERS = 10_000_000


def tokenizer_program(setup: bytes) -> Callable[[dict[str, Any]], Any]:
    """Loads a tokenizer.

    Args:
        setup: Its tokenizer.json.

    Returns:
        Answers requests: `{"call": "encode" | "decode" | "join", ...}`.
    """
    tokenizer = tokenizers.Tokenizer.from_buffer(setup)
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def answer(request: dict[str, Any]) -> Any:
        if request["call"] == "encode":
            return tokenizer.encode(request["text"], add_special_tokens=request["special"]).ids
        if request["call"] == "join":
            text = text_of_tokens(tokenizer, request["tokens"])
        else:
            text = tokenizer.decode(request["ids"], skip_special_tokens=False)
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"it makes a text of {len(text)} characters")
        return text

    return answer
