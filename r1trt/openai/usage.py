"""How many tokens a request took."""

from __future__ import annotations

from typing import Any

from r1trt.openai.model_client import Piece


class Usage:
    """Counts the tokens of a request's texts.

    Args:
        choices: Texts of each prompt, whose tokens count once.
    """

    def __init__(self, choices: int) -> None:
        self._choices = choices
        self._prompt_tokens: dict[int, int] = {}
        self._cached_tokens = 0
        self._completion_tokens = 0
        self._reasoning_tokens = 0

    def add(self, index: int, piece: Piece) -> None:
        """Counts one response of one text."""
        self._prompt_tokens[index // self._choices] = piece.input_tokens
        if index % self._choices == 0:
            self._cached_tokens += piece.cached_tokens
        self._completion_tokens += piece.output_tokens
        self._reasoning_tokens += piece.thinking_tokens

    @property
    def content(self) -> dict[str, Any]:
        """As clients get it."""
        prompt = sum(self._prompt_tokens.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._completion_tokens,
            "total_tokens": prompt + self._completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self._cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self._reasoning_tokens},
        }
