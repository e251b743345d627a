"""`r1trt generate`: text from an engine, piece by piece."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from r1trt.artifacts import Artifact, BuildArtifact, read_artifact
from r1trt.errors import UsageError
from r1trt.runtime.answering import AnsweringConfig
from r1trt.runtime.generation import Generation
from r1trt.runtime.load import session_from_engine
from r1trt.runtime.prompt_lookup import require_draft_length
from r1trt.runtime.sampling_defaults import sampling_defaults_from_dir
from r1trt.runtime.session import Session
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir

RAW_NOTE = "The model has no chat template: it goes on with the prompt as it stands."
LOOKUP_NOTE = (
    "The engine rounds activations to 8 bits, and otherwise in calls of several tokens: with --prompt-lookup"
    " the text may become another than without."
)
_ROUNDED = ("int8", "int4")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(AnsweringConfig):
    """Options of a generation. Exactly one of `prompt` and `messages` is given.

    Attributes:
        prompt: What the user says; the model's chat template is put around it where it has one.
        messages: A whole conversation, `{"role": ..., "content": ...}` each.
        raw: Continue `prompt` as it is, without the chat template.
        prompt_lookup: Draft up to so many tokens from what stands in prompt and answer already; 0 does not.
    """

    prompt: str | None = None
    messages: tuple[Mapping[str, Any], ...] = ()
    raw: bool = False
    prompt_lookup: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range."""
        super().__post_init__()
        if self.prompt_lookup:
            require_draft_length(self.prompt_lookup)
        if (self.prompt is None) == (not self.messages):
            raise UsageError("Give either a prompt or messages.", found=f"prompt {self.prompt!r}")
        if self.raw and (self.messages or self.system is not None):
            raise UsageError(
                "A system text, and messages, need the chat template, which raw leaves out.",
                fix="leave out --raw, or --system",
            )
        if self.messages and self.system is not None:
            raise UsageError("Give a system text, or messages that have it.", found="both")


def generate(config: GenerateConfig, session: Session | None = None) -> Generation:
    """Load an engine and start a generation.

    Args:
        config: What to generate.
        session: The engine, where it is loaded already.

    Returns:
        An iterable of text pieces, whose `statistics` are set once it is exhausted.

    Raises:
        R1TrtError: The engine cannot be loaded, or its tokenizer is missing or has no chat template.
        SessionError: While iterating: the prompt is longer than the engine's KV cache.
    """
    artifact = read_artifact(config.engine)  # what is no artifact is not to be searched for a tokenizer
    tokenizer = tokenizer_from_dir(config.engine)
    defaults = sampling_defaults_from_dir(config.engine)
    prompt_ids = prompt_ids_from_config(tokenizer, config)
    sampling = config.sampling(defaults)
    started = time.perf_counter()
    session = session or session_from_engine(
        config.engine, threads=config.threads, trust_plugins=config.trust_plugins
    )
    load_seconds = time.perf_counter() - started
    continuation = config.continuation(tokenizer, sampling, prompt_ids)
    raw_note = RAW_NOTE if tokenizer.is_raw and not config.raw else None
    notes = [defaults.note, config.note(sampling), raw_note, _lookup_note(artifact, config)]
    return Generation(
        session,
        prompt_ids,
        continuation,
        sampling=sampling,
        prompt_lookup=config.prompt_lookup,
        notes=tuple(filter(None, notes)),
        load_seconds=load_seconds,
    )


def _lookup_note(artifact: Artifact, config: GenerateConfig) -> str | None:
    if not (config.prompt_lookup and isinstance(artifact, BuildArtifact)):
        return None
    return LOOKUP_NOTE if artifact.manifest.precision in _ROUNDED else None


def prompt_ids_from_config(tokenizer: TextTokenizer, config: GenerateConfig) -> list[int]:
    """Token ids of the prompt: through the chat template, unless it is raw or the model has none.

    Raises:
        ConfigError: Messages need a template, and the model has none, or none that is the default.
    """
    if config.messages:
        return tokenizer.encode_chat(config.messages)
    assert config.prompt is not None  # checked on construction
    if config.raw or (tokenizer.is_raw and config.system is None):
        return tokenizer.encode(config.prompt)
    return tokenizer.encode_chat([*system_messages(config), {"role": "user", "content": config.prompt}])


def system_messages(config: AnsweringConfig) -> list[dict[str, str]]:
    """The message that a conversation begins with, if any."""
    return [] if config.system is None else [{"role": "system", "content": config.system}]
