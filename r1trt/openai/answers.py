"""Answers to a request: the texts of all its choices."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from r1trt.openai.asked import Asked
from r1trt.openai.choices import ChatChoice, Choice, CompletionChoice
from r1trt.openai.model_client import Piece
from r1trt.openai.usage import Usage

Pieces = AsyncGenerator[tuple[int, Piece], None]


class Answer:
    """Puts the texts of one request together.

    Args:
        asked: The request.
        prefix: What its id begins with.
        kind: What the whole answer is called.
        chunk_kind: What a piece of it is called.
        choices: One for each text.
    """

    def __init__(
        self, asked: Asked, *, prefix: str, kind: str, chunk_kind: str, choices: Sequence[Choice]
    ) -> None:
        self._asked, self._kind, self._choices = asked, kind, choices
        self._head: dict[str, Any] = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": chunk_kind,
            "created": int(time.time()),
            "model": asked.model,
        }
        self._usage = Usage(asked.choices)

    async def whole(self, pieces: Pieces) -> dict[str, Any]:
        """Waits for all texts."""
        async with aclosing(pieces):
            async for index, piece in pieces:
                self._usage.add(index, piece)
                self._choices[index].push(piece)
        choices = [choice.whole() for choice in self._choices]
        return {**self._head, "object": self._kind, "choices": choices, "usage": self._usage.content}

    async def chunks(self, pieces: Pieces) -> AsyncGenerator[dict[str, Any], None]:
        """Yields each piece as it comes, and the usage at the end where that was asked for."""
        async with aclosing(pieces):
            async for index, piece in pieces:
                self._usage.add(index, piece)
                part = self._choices[index].push(piece)
                if part is not None:
                    yield self._chunk([part], with_usage=self._asked.continuous_usage)
        if self._asked.include_usage:
            yield self._chunk([], with_usage=True)

    def _chunk(self, choices: list[dict[str, Any]], *, with_usage: bool) -> dict[str, Any]:
        chunk = {**self._head, "choices": choices}
        if self._asked.include_usage:
            chunk["usage"] = self._usage.content if with_usage else None
        return chunk


def chat_answer(asked: Asked) -> Answer:
    """An answer of /v1/chat/completions."""
    has_tools = any("tools" in prompt for prompt in asked.prompts)
    has_logprobs = "logprobs" in asked.values
    return Answer(
        asked,
        prefix="chatcmpl",
        kind="chat.completion",
        chunk_kind="chat.completion.chunk",
        choices=[
            ChatChoice(index, has_logprobs=has_logprobs, has_tools=has_tools)
            for index in range(asked.choices)
        ],
    )


def completion_answer(asked: Asked) -> Answer:
    """An answer of /v1/completions."""
    count = asked.choices * len(asked.prompts)
    return Answer(
        asked,
        prefix="cmpl",
        kind="text_completion",
        chunk_kind="text_completion",
        choices=[CompletionChoice(index, has_logprobs="logprobs" in asked.values) for index in range(count)],
    )
