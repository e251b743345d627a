"""Text of tokens one at a time: together exactly what decoding all of them gives, as early as it is certain.

A decoder of the tokenizers library takes the list of all tokens. Some of its steps look at one token, some at
its place in the list, and some at runs: byte fallback makes one character of several tokens, or as many
U+FFFD as there are bytes. What the steps are says where a list may be cut.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import tokenizers

TextOfTokens = Callable[[Sequence[str]], str]

SOMETHING = "a"
"""In front of tokens that are not the first: takes what a decoder does to the first one upon itself."""

_STEPS_OF_TOKENS = ("Replace", "Strip", "Metaspace", "WordPiece")
_BYTE_TOKEN = re.compile("<0x(..)>")


class DecodeStream(Protocol):
    """Takes tokens, each as the vocabulary spells it."""

    def push(self, token: str) -> str:
        """Returns the text that is certain by now, whole characters; may be empty."""

    def finish(self) -> str:
        """Returns the rest: bytes that never became a character are U+FFFD. A second call returns nothing."""


def stream_of_decoder(state: bytes | None, text_of: TextOfTokens) -> DecodeStream:
    """The stream for a decoder.

    Args:
        state: The decoder's JSON; None without one, where tokens are joined by spaces.
        text_of: Decodes a whole list of tokens.
    """
    steps = list(decoder_steps(json.loads(state))) if state is not None else []
    if [step["type"] for step in steps] == ["ByteLevel"]:
        return ByteLevelStream()
    if not _may_be_cut(steps):
        return WholeStream(text_of)
    return SegmentStream(text_of, replacements_before_bytes(steps))


def text_of_tokens(tokenizer: tokenizers.Tokenizer, tokens: Sequence[str]) -> str:
    """Decodes a list of tokens as the library decodes their ids."""
    decoder = tokenizer.decoder
    return " ".join(tokens) if decoder is None else str(decoder.decode(list(tokens)))


def decoder_steps(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The steps of a decoder, sequences in sequences unfolded."""
    if part.get("type") != "Sequence":
        yield part
        return
    for inner in part["decoders"]:
        yield from decoder_steps(inner)


class ByteLevelStream:
    """Every character of a token is a byte, as GPT-2 spells bytes; the bytes are UTF-8."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: str) -> str:
        """See DecodeStream."""
        return self._decoder.decode(bytes_of_level_token(token))

    def finish(self) -> str:
        """See DecodeStream."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


class SegmentStream:
    """Decodes segments of the list, which end behind every token that is no byte.

    Args:
        text_of: Decodes a list of tokens.
        replacements: What the decoder replaces in a token before it looks whether that is a byte.
    """

    def __init__(self, text_of: TextOfTokens, replacements: Sequence[tuple[str, str]] = ()) -> None:
        self._text_of, self._replacements = text_of, replacements
        self._segment: list[str] = []
        self._has_begun = False
        self._skipped = len(text_of([SOMETHING]))

    def push(self, token: str) -> str:
        """See DecodeStream."""
        self._segment.append(token)
        return "" if self._is_byte(token) else self._cut()

    def finish(self) -> str:
        """See DecodeStream."""
        return self._cut() if self._segment else ""

    def _is_byte(self, token: str) -> bool:
        return spelled_byte(token, self._replacements) is not None

    def _cut(self) -> str:
        if self._has_begun:
            text = self._text_of([SOMETHING, *self._segment])[self._skipped :]
        else:
            text = self._text_of(self._segment)
            # White space is stripped from the whole text: until there is any, more of it may come.
            if not text:
                return ""
        self._has_begun = True
        self._segment.clear()
        return text


class WholeStream:
    """Gives everything at the end, for decoders whose text may change until there.

    Args:
        text_of: Decodes a list of tokens.
    """

    def __init__(self, text_of: TextOfTokens) -> None:
        self._text_of = text_of
        self._tokens: list[str] = []

    def push(self, token: str) -> str:
        """See DecodeStream."""
        self._tokens.append(token)
        return ""

    def finish(self) -> str:
        """See DecodeStream."""
        text = self._text_of(self._tokens) if self._tokens else ""
        self._tokens.clear()
        return text


def spelled_byte(token: str, replacements: Sequence[tuple[str, str]]) -> str | None:
    """What stands for the byte in a token of byte fallback, two characters; None for any other token.

    Args:
        token: As the vocabulary spells it.
        replacements: What the decoder replaces in a token before it looks whether that is a byte.
    """
    for old, new in replacements:
        token = token.replace(old, new)
    found = _BYTE_TOKEN.fullmatch(token)
    return found[1] if found else None


def _may_be_cut(steps: Sequence[Mapping[str, Any]]) -> bool:
    """Whether text is certain behind a token that is no byte."""
    is_joined = False
    for index, step in enumerate(steps):
        kind = step["type"]
        if kind == "Fuse":
            is_joined = True
        elif kind == "ByteFallback":
            if is_joined or any(not _is_text_replacement(earlier) for earlier in steps[:index]):
                return False
        elif kind not in _STEPS_OF_TOKENS or (is_joined and not _sees_no_seam(step)):
            return False
    return True


def _is_text_replacement(step: Mapping[str, Any]) -> bool:
    return step["type"] == "Replace" and "String" in step["pattern"]


def _sees_no_seam(step: Mapping[str, Any]) -> bool:
    """Whether a step gives the same to a joined text and to its pieces behind one another."""
    if step["type"] == "Replace":
        return len(step["pattern"].get("String", "")) == 1
    return step["type"] == "Strip" and step["stop"] == 0 and str(step["content"]).isspace()


def replacements_before_bytes(steps: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What a decoder replaces in a token before it looks whether that is a byte."""
    kinds = [step["type"] for step in steps]
    before = steps[: kinds.index("ByteFallback")] if "ByteFallback" in kinds else []
    return [(step["pattern"]["String"], step["content"]) for step in before if _is_text_replacement(step)]


def _byte_characters() -> dict[str, int]:
    """GPT-2's spelling of bytes: what prints stands for itself, the others for characters from 256 on."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(0x100) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_characters()


def bytes_of_level_token(token: str) -> bytes:
    """A token's bytes; one with another character is text, as added tokens are."""
    found = [_BYTES.get(character) for character in token]
    known = [byte for byte in found if byte is not None]
    return bytes(known) if len(known) == len(found) else token.encode()
