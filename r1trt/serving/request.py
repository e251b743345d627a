"""What a client asks for and what it gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from r1trt.errors import R1TrtError
from r1trt.runtime.continuation import FinishReason
from r1trt.runtime.logprobs import TokenLogprob
from r1trt.runtime.sampling import SamplingConfig
from r1trt.tokenizer.thinking import ThinkingMode, check_thinking_mode

MAX_STOP_TEXTS, MAX_STOP_CHARACTERS = 16, 1000
MAX_LOGPROBS = 20


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
        max_new_tokens: Stop after this many; 0 where the prompt alone is given out.
        sampling: How tokens are chosen; its seed alone decides the random numbers.
        stop: Texts that end the generation; they are not given out.
        thinking: Whether the text given out has the model's thinking.
        logprobs: Say how likely each token is, and so many of the most likely ones; None does not.
        echo: The prompt's text, where it is given out in front of the answer; its tokens are then among those
            that `logprobs` speaks of.
        ignores_eos: Go on behind end-of-sequence tokens, to `max_new_tokens`.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    stop: tuple[str, ...] = ()
    thinking: ThinkingMode = "show"
    logprobs: int | None = None
    echo: str | None = None
    ignores_eos: bool = False

    def __post_init__(self) -> None:
        """Raises RequestError, or ConfigError from the runtime's own checks, for a value out of range."""
        check_thinking_mode(self.thinking)
        if not self.prompt_ids:
            raise RequestError("The prompt is empty.", expected="at least one token")
        if self.max_new_tokens < (self.echo is None):
            raise RequestError("max_tokens is too small.", found=self.max_new_tokens, expected="1 or more")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise RequestError(
                "logprobs is out of range.", found=self.logprobs, expected=f"0 to {MAX_LOGPROBS}"
            )
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
    def scores_prompt(self) -> bool:
        """Whether the prompt's own tokens are asked about."""
        return self.echo is not None and self.logprobs is not None

    @property
    def budget(self) -> int:
        """Most tokens that the request can hold in the cache."""
        # The last token is given out without entering the cache.
        return len(self.prompt_ids) + max(self.max_new_tokens, 1) - 1


@dataclass(frozen=True, kw_only=True)
class RequestEvent:
    """One message to a client. The last one has a finish reason or an error.

    Attributes:
        text: New text, whole characters; may be empty.
        thinking: New text of the thinking, where that is given out beside the answer.
        new_tokens: Tokens since the message before.
        cached_tokens: Tokens of the prompt that were not read anew; the first message has them.
        thinking_tokens: Tokens that are known by now to have gone into thinking, and were not before.
        logprobs: How likely tokens were, in order, where that was asked for.
        finish_reason: "eos", "stop" (a stop text), "length" (max_new_tokens); None while it goes on.
        error: Why the request ended without a result.
    """

    text: str = ""
    thinking: str = ""
    new_tokens: int = 0
    cached_tokens: int = 0
    thinking_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    error: R1TrtError | None = None

    @property
    def has_content(self) -> bool:
        """There is something to tell besides counts."""
        return bool(self.text or self.thinking or self.logprobs)

    @classmethod
    def of_all(cls, events: Sequence[RequestEvent]) -> RequestEvent:
        """Messages that follow each other, one or more, as one."""
        return cls(
            text="".join(event.text for event in events),
            thinking="".join(event.thinking for event in events),
            new_tokens=sum(event.new_tokens for event in events),
            cached_tokens=sum(event.cached_tokens for event in events),
            thinking_tokens=sum(event.thinking_tokens for event in events),
            logprobs=tuple(token for event in events for token in event.logprobs),
            finish_reason=events[-1].finish_reason,
            error=events[-1].error,
        )

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
