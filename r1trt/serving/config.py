"""How requests share a model, and the same as the parameters of a server's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from r1trt.errors import ConfigError
from r1trt.runtime.prompt_lookup import require_draft_length


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """How requests share a model.

    Attributes:
        chunk_tokens: Prompt tokens of one call, at most. Larger pieces read prompts faster, and hold up the
            running requests for longer; None measures the session, and lets prompts share larger calls.
        token_budget: A request is admitted when the prompt and the tokens asked for, of it and of all
            running requests, sum to at most this; None allows what the cache holds.
        max_queue: Requests that wait for a row, at most; further ones are refused.
        prefix_reuse: The beginning of a prompt that other requests have left in the cache, or have there, is
            not read again.
        reuse_answers: Neither is what was generated. Its keys and values come from other kernels than a
            prompt's, so texts may then differ from those without reuse.
        prompt_lookup: Tokens of a draft that is looked up where one request alone decodes; 0 drafts nothing.
    """

    chunk_tokens: int | None = None
    token_budget: int | None = None
    max_queue: int = 256
    prefix_reuse: bool = True
    reuse_answers: bool = False
    prompt_lookup: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range."""
        if self.reuse_answers and not self.prefix_reuse:
            raise ConfigError("Answers cannot be reused where nothing is: reuse_answers needs prefix_reuse.")
        for name in ("chunk_tokens", "token_budget", "max_queue"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"The scheduler's {name} is too small.", found=value, expected="1 or more")
        if self.prompt_lookup:
            require_draft_length(self.prompt_lookup)


_SWITCHES = frozenset(entry.name for entry in fields(SchedulerConfig) if isinstance(entry.default, bool))


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """What a server's model runs with.

    Attributes:
        rows: Requests that run at a time.
        threads: CPU threads of ONNX Runtime; None takes one for each core that may be used.
        cluster: HOST:PORT of a Ray cluster whose nodes run the engine's parts; None runs it in the server.
        scheduler: How they share the calls.
    """

    rows: int = 1
    threads: int | None = None
    cluster: str | None = None
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range."""
        for name, value in (("rows", self.rows), ("threads", self.threads)):
            if value is not None and value < 1:
                raise ConfigError(f"The server's {name} is too small.", found=value, expected="1 or more")

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> Self:
        """Reads what `to_parameters` wrote, and somebody may have edited; other names are left to others.

        Raises:
            ConfigError: A value is not an integer, or out of range.
        """
        scheduler = {entry.name for entry in fields(SchedulerConfig)}
        numbers = {"rows", "threads", *scheduler}
        known = {name: text for name, text in parameters.items() if name in numbers}
        wrong = [name for name, text in known.items() if not text.isdecimal()]
        if wrong:
            raise ConfigError(
                "Parameters of the model's configuration are not integers.", found=", ".join(wrong)
            )
        values = {name: _value(name, text) for name, text in known.items()}
        shared = {name: values.pop(name) for name in scheduler & values.keys()}
        cluster = parameters.get("cluster")
        return cls(**values, cluster=cluster, scheduler=SchedulerConfig(**shared))

    def to_parameters(self) -> dict[str, str]:
        """Names and values as text; what is None is left out."""
        values = {"rows": self.rows, "threads": self.threads, **asdict(self.scheduler)}
        texts = {name: str(int(value)) for name, value in values.items() if value is not None}
        return texts if self.cluster is None else {**texts, "cluster": self.cluster}


def _value(name: str, text: str) -> Any:
    """A number, or of what can be switched on and off: 1 or 0."""
    if name not in _SWITCHES:
        return int(text)
    if text not in ("0", "1"):
        raise ConfigError(
            f"The model's parameter {name} is neither on nor off.", found=text, expected="0 or 1"
        )
    return text == "1"
