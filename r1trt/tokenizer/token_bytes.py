"""What one token stands for by itself, as bytes: some tokens are parts of a character."""

from __future__ import annotations

import json
from collections.abc import Callable

from r1trt.tokenizer.decode_stream import (
    SOMETHING,
    TextOfTokens,
    bytes_of_level_token,
    decoder_steps,
    replacements_before_bytes,
    spelled_byte,
)


def token_bytes_of_decoder(state: bytes | None, text_of: TextOfTokens) -> Callable[[str], bytes]:
    """What gives the bytes, in UTF-8, that a token adds to a text that it does not begin.

    Args:
        state: The decoder's JSON; None without one, where tokens are joined by spaces.
        text_of: Decodes a whole list of tokens.
    """
    steps = list(decoder_steps(json.loads(state))) if state is not None else []
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return bytes_of_level_token
    replacements, has_bytes = replacements_before_bytes(steps), "ByteFallback" in kinds

    def bytes_of(token: str) -> bytes:
        spelled = spelled_byte(token, replacements) if has_bytes else None
        if spelled is not None and (byte := _byte(spelled)) is not None:
            return bytes([byte])
        return text_of([SOMETHING, token])[len(text_of([SOMETHING])) :].encode()

    return bytes_of


def _byte(spelled: str) -> int | None:
    try:
        return int(spelled, 16)
    except ValueError:
        return None
