"""What is profiled: a batch of requests, as lengths, and the calls that answering them takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from r1trt.errors import ConfigError
from r1trt.ops.cost import CallSize

Phase = Literal["prefill", "decode"]

MOST_REQUESTS, MOST_TOKENS = 1 << 16, 1 << 18
"""Beyond what any of these models computes; each call of an answer is counted by itself."""
DEFAULT_PROMPT, DEFAULT_ANSWER = 512, 128
"""Tokens of the one request that is profiled where nobody says; fewer where a model takes fewer."""


@dataclass(frozen=True, kw_only=True)
class RequestBatch:
    """Requests that are answered together, padded to the longest prompt.

    Attributes:
        prompt_tokens: Tokens of each prompt.
        new_tokens: Tokens of each answer; the prefill gives the first of them.
        token_ids: Of each prompt; empty where only lengths are known.
    """

    prompt_tokens: tuple[int, ...]
    new_tokens: int
    token_ids: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        sizes = (len(self.prompt_tokens), *self.prompt_tokens, self.new_tokens)
        if min(sizes) < 1 or max(sizes) > MOST_TOKENS or len(self.prompt_tokens) > MOST_REQUESTS:
            raise ConfigError(
                "A batch has requests, and each of them a prompt and an answer.",
                found=f"{len(self.prompt_tokens)} requests of {self.longest} tokens, {self.new_tokens} new",
                expected=f"1 to {MOST_REQUESTS} requests, and 1 to {MOST_TOKENS} tokens",
            )

    @property
    def size(self) -> int:
        """Requests."""
        return len(self.prompt_tokens)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(self.prompt_tokens, default=0)

    @property
    def tokens(self) -> int:
        """Tokens of a row's cache at the end; the last new one is never read."""
        return self.longest + self.new_tokens - 1

    @property
    def useful_share(self) -> float:
        """Share of the prompts' computed tokens that is no padding."""
        return sum(self.prompt_tokens) / (self.size * self.longest)

    def calls(self, most_tokens: int | None = None) -> Mapping[Phase, Sequence[CallSize]]:
        """The calls of each phase; a phase without any is left out.

        Args:
            most_tokens: Of a call; longer prompts are read in several.
        """
        step = min(most_tokens or self.longest, self.longest)
        prefill = [
            CallSize(batch=self.size, tokens=min(step, self.longest - start), past=start)
            for start in range(0, self.longest, step)
        ]
        decode = [
            CallSize(batch=self.size, tokens=1, past=self.longest + index)
            for index in range(self.new_tokens - 1)
        ]
        return {"prefill": prefill, "decode": decode} if decode else {"prefill": prefill}


def default_requests(longest: int) -> RequestBatch:
    """One request that fits a model.

    Args:
        longest: Most tokens of a sequence.
    """
    prompt = min(DEFAULT_PROMPT, max(1, 3 * longest // 4))
    answer = min(DEFAULT_ANSWER, max(1, longest - prompt))
    return RequestBatch(prompt_tokens=(prompt,), new_tokens=answer)
