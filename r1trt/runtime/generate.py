"""`r1trt generate`: text from an engine, piece by piece."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1trt.artifacts import read_artifact
from r1trt.errors import ConfigError
from r1trt.runtime.continuation import Continuation
from r1trt.runtime.generation import Generation
from r1trt.runtime.load import session_from_engine
from r1trt.runtime.sampling import SamplingConfig
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir
from r1trt.tokenizer.thinking import ThinkingMode, check_thinking_mode


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Options of a generation. Exactly one of `prompt` and `messages` is given.

    Attributes:
        engine: Build directory, or an export directory.
        prompt: What the user says; the model's chat template is put around it where it has one.
        messages: A whole conversation, `{"role": ..., "content": ...}` each.
        raw: Continue `prompt` as it is, without the chat template.
        max_new_tokens: Stop after this many.
        temperature: 0 takes the most likely token.
        top_k: Sample from this many of the most likely tokens; 0 from all.
        top_p: Sample from the most likely tokens that hold this much probability.
        seed: Seed of the random numbers.
        stop: Texts that end the generation; they are not given out.
        thinking: "show" gives out the text as the model writes it, "hide" without what is between `<think>`
            and `</think>`, "only" that alone.
        threads: CPU threads of ONNX Runtime; None leaves it to ONNX Runtime.
        trust_plugins: Code that the directory brings may run, even if this machine did not make it.
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
    thinking: ThinkingMode = "show"
    threads: int | None = None
    trust_plugins: bool = False

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
        check_thinking_mode(self.thinking)
        _ = self.sampling  # its own checks run on construction

    @property
    def sampling(self) -> SamplingConfig:
        """How tokens are chosen."""
        return SamplingConfig(
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed
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
    read_artifact(config.engine)  # what is no artifact is not to be searched for a tokenizer
    tokenizer = tokenizer_from_dir(config.engine)
    prompt_ids = prompt_ids_from_config(tokenizer, config)
    started = time.perf_counter()
    session = session_from_engine(config.engine, threads=config.threads, trust_plugins=config.trust_plugins)
    load_seconds = time.perf_counter() - started
    continuation = Continuation(
        tokenizer,
        sampling=config.sampling,
        max_new_tokens=config.max_new_tokens,
        stop=config.stop,
        thinking=config.thinking,
        begins_thinking=tokenizer.opens_thinking(prompt_ids),
    )
    return Generation(session, prompt_ids, continuation, load_seconds=load_seconds)


def prompt_ids_from_config(tokenizer: TextTokenizer, config: GenerateConfig) -> list[int]:
    """Token ids of the prompt: through the chat template, unless it is raw or the model has none."""
    if config.messages:
        return tokenizer.encode_chat(config.messages)
    assert config.prompt is not None  # checked on construction
    if config.raw or tokenizer.chat_template is None:
        return tokenizer.encode(config.prompt)
    return tokenizer.encode_chat([{"role": "user", "content": config.prompt}])
