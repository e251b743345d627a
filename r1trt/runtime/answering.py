"""Options of every answer, to one prompt or in a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from r1trt.errors import ConfigError, UsageError
from r1trt.runtime.continuation import Continuation
from r1trt.runtime.sampling import SamplingConfig
from r1trt.runtime.sampling_defaults import SamplingDefaults
from r1trt.tokenizer.text_tokenizer import TextTokenizer
from r1trt.tokenizer.thinking import ThinkingMode, check_thinking_mode


@dataclass(frozen=True, kw_only=True)
class AnsweringConfig:
    """Which model answers, and how.

    Attributes:
        engine: Build directory, or an export directory.
        system: What the system message says; None for no such message.
        max_new_tokens: Stop after this many.
        temperature: 0 takes the most likely token. None: as the model's `generation_config.json` says.
        top_k: Sample from this many of the most likely tokens; 0 from all. None: as that file says.
        top_p: Sample from the most likely tokens that hold this much probability. None: as that file says.
        seed: Seed of the random numbers.
        stop: Texts that end an answer; they are not given out.
        thinking: "show" gives out the text as the model writes it, "hide" without what is between `<think>`
            and `</think>`, "only" that alone.
        threads: CPU threads of ONNX Runtime; None takes one for each core that may be used.
        trust_plugins: Code that the directory brings may run, even if this machine did not make it.
    """

    engine: Path
    system: str | None = None
    max_new_tokens: int = 256
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    stop: tuple[str, ...] = ()
    thinking: ThinkingMode = "show"
    threads: int | None = None
    trust_plugins: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range."""
        if self.max_new_tokens < 1:
            raise UsageError("max_new_tokens is too small.", found=self.max_new_tokens, expected="1 or more")
        for text in self.stop:
            if not text:
                raise UsageError(
                    "A stop text is empty.", expected="one character or more", fix="leave out --stop"
                )
            _require_unicode("A stop text", text)
        if self.system is not None:
            _require_unicode("The system text", self.system)
        check_thinking_mode(self.thinking)
        self.sampling(SamplingDefaults())  # its own checks run on construction

    def sampling(self, defaults: SamplingDefaults) -> SamplingConfig:
        """How tokens are chosen."""
        return defaults.config(
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed
        )

    def note(self, sampling: SamplingConfig) -> str | None:
        """What of the options has no effect; None where all have one."""
        given = {"top-k": self.top_k, "top-p": self.top_p, "seed": self.seed or None}
        idle = [name for name, value in given.items() if value is not None]
        if sampling.temperature > 0.0 or not idle:
            return None
        return f"{' and '.join(idle)} {'has' if len(idle) == 1 else 'have'} no effect at temperature 0."

    def continuation(
        self, tokenizer: TextTokenizer, sampling: SamplingConfig, prompt_ids: Sequence[int]
    ) -> Continuation:
        """What chooses and decodes the tokens that follow a prompt."""
        return Continuation(
            tokenizer,
            sampling=sampling,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            thinking=self.thinking,
            begins_thinking=tokenizer.opens_thinking(prompt_ids),
        )


def _require_unicode(what: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} is not Unicode.", found=ascii(text), expected="UTF-8") from error
