"""What follows a prompt: from each token's logits its text, until one of the ends.

Legend: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from r1trt.runtime.logprobs import TokenLogprob, token_logprob
from r1trt.runtime.sampling import Sampler, SamplingConfig
from r1trt.runtime.session import Float32Array
from r1trt.tokenizer.stop_texts import StopTexts
from r1trt.tokenizer.text_tokenizer import TextTokenizer
from r1trt.tokenizer.thinking import ThinkingMode, ThinkingView

FinishReason = Literal["eos", "stop", "length", "capacity"]
"""End-of-sequence token, a stop text, as many tokens as were asked for, or a full KV cache."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one token brings.

    Attributes:
        token: Its id.
        text: Text to give out that is certain by now, whole characters; may be empty.
        thinking: Text of the thinking, where that is given out beside the answer.
        logprob: How likely the token was, where that was asked for.
        finish_reason: Why it is the last token; None where it is not.
    """

    token: int
    text: str
    thinking: str = ""
    logprob: TokenLogprob | None = None
    finish_reason: FinishReason | None = None


class Continuation:
    """Chooses one sequence's tokens and decodes them.

    Args:
        tokenizer: The model's.
        sampling: How tokens are chosen.
        max_new_tokens: End after this many.
        stop: Texts that end it, none empty; they are not given out.
        thinking: Whether the text given out has the model's thinking.
        begins_thinking: The prompt opens the thinking.
        logprobs: Say how likely each token is, and so many of the most likely ones; None does not.
        ignores_eos: End-of-sequence tokens are tokens without text, and end nothing.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        *,
        sampling: SamplingConfig,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        thinking: ThinkingMode = "show",
        begins_thinking: bool = False,
        logprobs: int | None = None,
        ignores_eos: bool = False,
    ) -> None:
        self._vocab_size = tokenizer.vocab_size
        self._eos_ids, self._ignores_eos = tokenizer.eos_ids, ignores_eos
        self._stream = tokenizer.stream()
        self._sampler = Sampler(sampling)
        self._stop = StopTexts(stop)
        self._view = ThinkingView(thinking, is_inside=begins_thinking)
        self._left = max_new_tokens
        self._logprobs = logprobs

    def take(self, logits_V: Float32Array) -> Piece:
        """Chooses the next token.

        Args:
            logits_V: Logits `[V]` after everything before; V may be padded beyond the tokenizer's vocabulary.

        Raises:
            ConfigError: The logits are not finite numbers.
        """
        token = self._sampler.sample(logits_V[: self._vocab_size])
        self._left -= 1
        reason = self._end_of(token)
        text = "" if token in self._eos_ids else self._stream.push(token)
        if reason is not None:
            text += self._stream.finish()
        visible = self._view.take_token(self._stop.push(text), is_whole=not self._stop.is_undecided)
        if reason != "eos" and self._stop.found:
            reason = "stop"
        if reason is not None:
            visible += self.held_back()
        return Piece(
            token=token,
            text=visible,
            thinking=self._view.take_thinking(),
            logprob=self._logprob(logits_V, token),
            finish_reason=reason,
        )

    def held_back(self) -> str:
        """Text that might have become another, a stop text or a tag, for a sequence ended from outside."""
        rest = "" if self._stop.found else self._stop.push(self._stream.finish()) + self._stop.finish()
        return self._view.finish(rest)

    @property
    def thinking_tokens(self) -> int:
        """Tokens that went into thinking, tags included; complete at the end, and after `held_back`."""
        return self._view.thinking_tokens

    def _logprob(self, logits_V: Float32Array, token: int) -> TokenLogprob | None:
        if self._logprobs is None:
            return None
        return token_logprob(logits_V, token, self._logprobs, self._vocab_size)

    def _end_of(self, token: int) -> FinishReason | None:
        """Why no token follows this one, whatever its text is."""
        if token in self._eos_ids and not self._ignores_eos:
            return "eos"
        return "length" if self._left <= 0 else None
