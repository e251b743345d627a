"""Options of a validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from r1trt.errors import UsageError

DEFAULT_WINDOW = 512
DEFAULT_TOKENS = 2048


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """Options of a validation.

    Attributes:
        engine: Build directory, or an export directory.
        reference: Checkpoint to compare with; None means the one that it was made from.
        prompts: Text to compare on, `.txt` or `.jsonl`; None means held-out text that comes with the package.
        max_tokens: Tokens to compare on.
        window: Most tokens that are read in one go, from an empty cache.
        threads: CPU threads of ONNX Runtime; None takes one for each core that may be used.
        trust_plugins: Code that the directory brings may run, even if this machine did not make it.
    """

    engine: Path
    reference: Path | None = None
    prompts: Path | None = None
    max_tokens: int = DEFAULT_TOKENS
    window: int = DEFAULT_WINDOW
    threads: int | None = None
    trust_plugins: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range."""
        for name, value in (("max_tokens", self.max_tokens), ("window", self.window)):
            if value < 2:
                raise UsageError(f"{name} is too small.", found=value, expected="2 or more")
