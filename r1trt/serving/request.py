"""What a client asks for, what it gets, and where a request stands in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from r1trt.errors import R1TrtError
from r1trt.runtime.sampling import Sampler, SamplingConfig
from r1trt.runtime.session import Float32Array
from r1trt.runtime.stop_texts import StopTexts
from r1trt.runtime.tokenizer import DecodeStream, TextTokenizer

FinishReason = Literal["eos", "stop", "length"]

MAX_STOP_TEXTS = 16


class RequestError(R1TrtError):
    """A request that cannot be served as it stands; others go on."""


class QueueFullError(RequestError):
    """Too many requests wait already; the same request may succeed later."""


class CancelledError(RequestError):
    """The client went away, or the server is stopping."""


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One text to generate.

    Attributes:
        prompt_ids: The prompt's tokens.
        max_new_tokens: Stop after this many.
        sampling: How tokens are chosen; its seed alone decides the random numbers.
        stop: Texts that end the generation; they are not given out.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises RequestError for a value out of range."""
        if not self.prompt_ids:
            raise RequestError("The prompt is empty.", expected="at least one token")
        if self.max_new_tokens < 1:
            raise RequestError("max_tokens is too small.", found=self.max_new_tokens, expected="1 or more")
        if not all(self.stop):
            raise RequestError("A stop text is empty.", found=list(self.stop))
        if len(self.stop) > MAX_STOP_TEXTS:
            raise RequestError(
                "Too many stop texts.", found=len(self.stop), expected=f"at most {MAX_STOP_TEXTS}"
            )

    @property
    def budget(self) -> int:
        """Most tokens that the request can hold in the cache."""
        # The last token is given out without entering the cache.
        return len(self.prompt_ids) + self.max_new_tokens - 1


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One message to a client. The last one has a finish reason or an error.

    Attributes:
        text: New text, whole characters; may be empty.
        new_tokens: Tokens since the message before.
        finish_reason: "eos", "stop" (a stop text), "length" (max_new_tokens); None while it goes on.
        error: Why the request ended without a result.
    """

    text: str = ""
    new_tokens: int = 0
    finish_reason: FinishReason | None = None
    error: R1TrtError | None = None

    @property
    def is_final(self) -> bool:
        """Nothing follows."""
        return self.finish_reason is not None or self.error is not None


@dataclass(frozen=True, kw_only=True)
class Client:
    """Where a request's text goes.

    Attributes:
        send: Takes each message; what it raises counts as a client that went away.
        is_cancelled: Asked between steps.
    """

    send: Callable[[Progress], None]
    is_cancelled: Callable[[], bool] = lambda: False


class ActiveRequest:
    """A request that waits for a row or has one.

    Args:
        request: What was asked.
        client: Who asked.
        tokenizer: The model's.
    """

    def __init__(self, request: GenerationRequest, client: Client, tokenizer: TextTokenizer) -> None:
        self.request = request
        self.client = client
        self.row = -1
        self.past = 0
        self.last_token = -1
        self.new_tokens = 0
        self.submitted_at = time.perf_counter()
        self.started_at = 0.0
        self.first_token_at = 0.0
        self._sampler = Sampler(request.sampling)
        self._stream: DecodeStream = tokenizer.stream()
        self._stop = StopTexts(request.stop)
        self._eos_ids = tokenizer.eos_ids
        self._vocab_size = tokenizer.vocab_size

    @property
    def unread(self) -> int:
        """Prompt tokens that the cache does not hold yet."""
        return max(len(self.request.prompt_ids) - self.past, 0)

    @property
    def is_decoding(self) -> bool:
        """The prompt is read."""
        return self.new_tokens > 0

    def take(self, logits_V: Float32Array) -> Progress:
        """Chooses the next token and returns what the client gets for it.

        Args:
            logits_V: Logits `[V]` after everything that the row holds.

        Raises:
            ConfigError: The logits are not numbers.
        """
        token = self._sampler.sample(logits_V[: self._vocab_size])
        if not self.new_tokens:
            self.first_token_at = time.perf_counter()
        self.new_tokens += 1
        self.last_token = token
        return self._progress(token)

    def _progress(self, token: int) -> Progress:
        if token in self._eos_ids:
            return Progress(text=self._stop.finish(), new_tokens=1, finish_reason="eos")
        text = self._stop.push(self._stream.push(token))
        if self._stop.found:
            return Progress(text=text, new_tokens=1, finish_reason="stop")
        if self.new_tokens >= self.request.max_new_tokens:
            return Progress(text=text + self._stop.finish(), new_tokens=1, finish_reason="length")
        return Progress(text=text, new_tokens=1)
