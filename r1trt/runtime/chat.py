"""A conversation of several turns with one engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from r1trt.artifacts import read_artifact
from r1trt.runtime.answering import AnsweringConfig
from r1trt.runtime.generate import system_messages
from r1trt.runtime.generation import Generation, GenerationStatistics
from r1trt.runtime.load import session_from_engine
from r1trt.runtime.sampling_defaults import sampling_defaults_from_dir
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir


class Chat:
    """A conversation; what the engine's cache holds of it is not read again.

    Args:
        config: Which model answers, and how.

    Raises:
        R1TrtError: The engine cannot be loaded, or its tokenizer is missing.
        ConfigError: The model has no chat template.
    """

    def __init__(self, config: AnsweringConfig) -> None:
        read_artifact(config.engine)
        self._config = config
        self._tokenizer = tokenizer_from_dir(config.engine)
        defaults = sampling_defaults_from_dir(config.engine)
        self.sampling = config.sampling(defaults)
        self.notes = tuple(filter(None, (defaults.note, config.note(self.sampling))))
        self._tokenizer.require_chat_template()
        started = time.perf_counter()
        self._session = session_from_engine(
            config.engine, threads=config.threads, trust_plugins=config.trust_plugins
        )
        self._load_seconds = time.perf_counter() - started
        self._held_ids: list[int] = []
        self.statistics: GenerationStatistics | None = None
        self.reset()

    def reset(self) -> None:
        """Forgets what was said; the system message stays."""
        self.messages: list[dict[str, Any]] = list(system_messages(self._config))

    def answer(self, text: str) -> Iterator[str]:
        """Answers the user, piece by piece; `statistics` is set at the end.

        Raises:
            R1TrtError: The conversation no longer fits the cache, or the template refuses it, and it is as it
                was before.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        prompt_ids = self._tokenizer.encode_chat(asked)
        generation = Generation(
            self._session,
            prompt_ids,
            self._config.continuation(self._tokenizer, self.sampling, prompt_ids),
            sampling=self.sampling,
            held_ids=self._held_ids,
            load_seconds=self._load_seconds,
        )
        self._held_ids = []  # unknown, should a call fail
        yield from generation
        self._held_ids = generation.held_ids
        self.statistics = generation.statistics
        self.messages = [*asked, {"role": "assistant", "content": self._said(generation)}]

    def _said(self, generation: Generation) -> str:
        """The whole answer, thinking included, whatever of it was shown: the template decides what stays."""
        ids = [token for token in generation.token_ids if token not in self._tokenizer.eos_ids]
        text = self._tokenizer.decode(ids)
        ends = [index for stop in self._config.stop if (index := text.find(stop)) >= 0]
        return text[: min(ends, default=len(text))]

    def close(self) -> None:
        """Frees the model."""
        self._session.close()
