"""What a client asks for and what it gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from r1trt.errors import R1TrtError
from r1trt.runtime.continuation import FinishReason
from r1trt.runtime.sampling import SamplingConfig
from r1trt.tokenizer.thinking import ThinkingMode, check_thinking_mode

QUEUE_FULL = "The queue is full."
MAX_STOP_TEXTS, MAX_STOP_CHARACTERS = 16, 1000


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
        thinking: Whether the text given out has the model's thinking.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    stop: tuple[str, ...] = ()
    thinking: ThinkingMode = "show"

    def __post_init__(self) -> None:
        """Raises RequestError, or ConfigError from the runtime's own checks, for a value out of range."""
        check_thinking_mode(self.thinking)
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
        if (longest := max(map(len, self.stop), default=0)) > MAX_STOP_CHARACTERS:
            raise RequestError(
                "A stop text is too long.",
                found=f"{longest} characters",
                expected=f"at most {MAX_STOP_CHARACTERS}",
            )

    @property
    def budget(self) -> int:
        """Most tokens that the request can hold in the cache."""
        # The last token is given out without entering the cache.
        return len(self.prompt_ids) + self.max_new_tokens - 1


@dataclass(frozen=True, kw_only=True)
class RequestEvent:
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

    send: Callable[[RequestEvent], None]
    is_cancelled: Callable[[], bool] = lambda: False
