"""Names of the files that every directory with a model in it has, a checkpoint included."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from r1trt.artifacts.disk import copy_file


@dataclass(frozen=True, kw_only=True)
class ModelDirectory:
    """A directory with a tokenizer and a configuration.

    Attributes:
        path: Where.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The model's configuration."""
        return self.path / "config.json"

    @property
    def generation_config(self) -> Path:
        """End tokens and sampling defaults."""
        return self.path / "generation_config.json"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer itself."""
        return self.path / "tokenizer.json"

    @property
    def tokenizer_config(self) -> Path:
        """The tokenizer's settings and, in many checkpoints, the chat template."""
        return self.path / "tokenizer_config.json"

    @property
    def special_tokens(self) -> Path:
        """Special tokens by name."""
        return self.path / "special_tokens_map.json"

    @property
    def chat_template(self) -> Path:
        """The chat template, where it is a file of its own."""
        return self.path / "chat_template.jinja"

    @property
    def companions(self) -> tuple[Path, ...]:
        """What generation and serving need beside the graph, as far as it is there."""
        paths = (
            self.config,
            self.generation_config,
            self.tokenizer,
            self.tokenizer_config,
            self.special_tokens,
            self.chat_template,
        )
        return tuple(path for path in paths if path.is_file())

    def copy_companions_to(self, directory: Path) -> None:
        """Copies them into another directory."""
        for path in self.companions:
            copy_file(path, directory / path.name)
