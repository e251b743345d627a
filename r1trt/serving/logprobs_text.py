"""How likely tokens were, as JSON: the list that OpenAI's interface has as `logprobs.content`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from r1trt.runtime.logprobs import TokenLogprob
from r1trt.tokenizer.text_tokenizer import TextTokenizer

_LEAST = -9999.0
"""In the place of minus infinity, which JSON does not have; OpenAI's servers say the same."""


def logprobs_text(tokens: Sequence[TokenLogprob], tokenizer: TextTokenizer) -> str:
    """Writes a list of `{"token", "logprob", "bytes", "top_logprobs"}`.

    Args:
        tokens: In order.
        tokenizer: The model's.
    """
    return json.dumps([_entry(token, tokenizer) for token in tokens], ensure_ascii=False, allow_nan=False)


def _entry(token: TokenLogprob, tokenizer: TextTokenizer) -> dict[str, Any]:
    top = [_alternative(token, logprob, tokenizer) for token, logprob in token.top]
    return {**_alternative(token.token, token.logprob, tokenizer), "top_logprobs": top}


def _alternative(token: int, logprob: float | None, tokenizer: TextTokenizer) -> dict[str, Any]:
    content = tokenizer.token_bytes(token)
    return {
        "token": content.decode("utf-8", "replace"),
        "logprob": None if logprob is None else max(logprob, _LEAST),
        "bytes": list(content),
    }
