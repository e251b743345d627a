"""`r1trt generate`: text from an engine, piece by piece."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from r1trt.errors import ConfigError
from r1trt.runtime.load import session_from_engine
from r1trt.runtime.prefill import prefill
from r1trt.runtime.sampling import Sampler, SamplingConfig
from r1trt.runtime.session import Session, SessionError
from r1trt.runtime.stop_texts import StopTexts
from r1trt.runtime.tokenizer import TextTokenizer, tokenizer_from_dir

FinishReason = Literal["eos", "stop", "length", "capacity"]


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Options of a generation. Exactly one of `prompt` and `messages` is given.

    Attributes:
        engine: Build directory, or an export directory.
        prompt: What the user says; the model's chat template is put around it where it has one.
        messages: A whole conversation, `{"role": ..., "content": ...}` each.
        raw: Continue `prompt` as it is, without the chat template.
        max_new_tokens: Stop after this many.
        temperature: 0 takes the likeliest token.
        top_k: Sample from this many of the likeliest tokens; 0 from all.
        top_p: Sample from the likeliest tokens that hold this much probability.
        seed: Seed of the random numbers.
        stop: Texts that end the generation; they are not given out.
        threads: CPU threads of ONNX Runtime; None leaves it to ONNX Runtime.
    """

    engine: Path
    prompt: str | None = None
    messages: tuple[Mapping[str, Any], ...] = ()
    raw: bool = False
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    threads: int | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range."""
        if (self.prompt is None) == (not self.messages):
            raise ConfigError("Give either a prompt or messages.", found=f"prompt {self.prompt!r}")
        if self.raw and self.messages:
            raise ConfigError("Messages need the chat template.", fix="give a prompt, or leave out raw")
        if self.max_new_tokens < 1:
            raise ConfigError("max_new_tokens is too small.", found=self.max_new_tokens, expected="1 or more")
        if not all(self.stop):
            raise ConfigError("A stop text is empty.", found=self.stop)
        _ = self.sampling  # its own checks run on construction

    @property
    def sampling(self) -> SamplingConfig:
        """How tokens are chosen."""
        return SamplingConfig(
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed
        )


@dataclass(frozen=True, kw_only=True)
class GenerationStatistics:
    """What a generation did.

    Attributes:
        prompt_tokens: Tokens of the prompt, template included.
        new_tokens: Tokens generated, the end-of-sequence token included.
        load_seconds: Loading the model.
        time_to_first_token: Seconds from the prompt to the first token.
        prefill_tokens_per_second: Prompt tokens by that time.
        decode_tokens_per_second: New tokens after the first by their time; None where there is only one.
        finish_reason: "eos", "stop" (a stop text), "length" (max_new_tokens) or "capacity" (cache full).
    """

    prompt_tokens: int
    new_tokens: int
    load_seconds: float
    time_to_first_token: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float | None
    finish_reason: FinishReason

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers and strings, for JSON."""
        return asdict(self)


class Generation:
    """A running generation: iterate for the text; `statistics` is set at the end.

    Args:
        session: A loaded model. Its caches are reset.
        tokenizer: The model's tokenizer.
        prompt_ids: The prompt.
        config: Sampling and ends; its engine and prompt are not looked at.
        load_seconds: For the statistics.
    """

    def __init__(
        self,
        session: Session,
        tokenizer: TextTokenizer,
        prompt_ids: Sequence[int],
        config: GenerateConfig,
        *,
        load_seconds: float = 0.0,
    ) -> None:
        if session.limits.capacity is None:
            raise SessionError(
                "A scoring engine cannot generate: it has no KV cache.", fix="build without --no-cache"
            )
        self._session = session
        self._tokenizer = tokenizer
        self._prompt_ids = list(prompt_ids)
        self._config = config
        self._load_seconds = load_seconds
        self._capacity = session.limits.capacity
        self.token_ids: list[int] = []
        self.statistics: GenerationStatistics | None = None

    def __iter__(self) -> Iterator[str]:
        """Yields pieces of text, each whole characters.

        Raises:
            SessionError: The prompt does not fit the cache, or the backend failed.
        """
        started = time.perf_counter()
        first_token_at = started
        stream, stop = self._tokenizer.stream(), StopTexts(self._config.stop)
        reason: FinishReason | None = None
        for token in self._tokens():
            if not self.token_ids:
                first_token_at = time.perf_counter()
            self.token_ids.append(token)
            if token in self._tokenizer.eos_ids:
                reason = "eos"
                break
            if piece := stop.push(stream.push(token)):
                yield piece
            if stop.found:
                reason = "stop"
                break
        if piece := stop.finish():
            yield piece
        self.statistics = self._statistics(started, first_token_at, reason or self._length_reason())

    def _tokens(self) -> Iterator[int]:
        sampler = Sampler(self._config.sampling)
        logits_V = prefill(self._session, [self._prompt_ids])[0]
        seq_len_B = np.ones(1, dtype=np.int64)
        for new in range(self._config.max_new_tokens):
            past = len(self._prompt_ids) + new - 1
            if new:
                # The token just given out enters the cache only now, when another one is wanted.
                if past >= self._capacity:
                    return
                ids = np.array([[self.token_ids[-1]]], dtype=np.int64)
                logits_V = self._session.step(ids, seq_len_B, np.array([past], dtype=np.int64))[0, 0]
            yield sampler.sample(logits_V[: self._tokenizer.vocab_size])

    def _length_reason(self) -> FinishReason:
        return "length" if len(self.token_ids) >= self._config.max_new_tokens else "capacity"

    def _statistics(
        self, started: float, first_token_at: float, reason: FinishReason
    ) -> GenerationStatistics:
        to_first = first_token_at - started
        decoding = time.perf_counter() - first_token_at
        following = len(self.token_ids) - 1
        return GenerationStatistics(
            prompt_tokens=len(self._prompt_ids),
            new_tokens=len(self.token_ids),
            load_seconds=self._load_seconds,
            time_to_first_token=to_first,
            prefill_tokens_per_second=len(self._prompt_ids) / to_first,
            decode_tokens_per_second=following / decoding if following else None,
            finish_reason=reason,
        )


def generate(config: GenerateConfig) -> Generation:
    """Load an engine and start a generation.

    Args:
        config: What to generate.

    Returns:
        An iterable of text pieces, whose `statistics` are set once it is exhausted.

    Raises:
        R1TrtError: The engine cannot be loaded, or its tokenizer is missing or has no chat template.
        SessionError: While iterating: the prompt is longer than the engine's KV cache.
    """
    tokenizer = tokenizer_from_dir(config.engine)
    prompt_ids = prompt_ids_from_config(tokenizer, config)
    started = time.perf_counter()
    session = session_from_engine(config.engine, threads=config.threads)
    load_seconds = time.perf_counter() - started
    return Generation(session, tokenizer, prompt_ids, config, load_seconds=load_seconds)


def prompt_ids_from_config(tokenizer: TextTokenizer, config: GenerateConfig) -> list[int]:
    """Token ids of the prompt: through the chat template, unless it is raw or the model has none."""
    if config.messages:
        return tokenizer.encode_chat(config.messages)
    assert config.prompt is not None  # checked on construction
    if config.raw or tokenizer.chat_template is None:
        return tokenizer.encode(config.prompt)
    return tokenizer.encode_chat([{"role": "user", "content": config.prompt}])
