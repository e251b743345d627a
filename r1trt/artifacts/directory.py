"""Names of the files that every directory with a model in it has, a checkpoint included."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from r1trt.artifacts.disk import copy_file
from r1trt.artifacts.errors import ArtifactError
from r1trt.files import TOKENIZER_BYTES, is_there


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
    def added_tokens(self) -> Path:
        """Added tokens and their ids, where the tokenizer's settings do not list them."""
        return self.path / "added_tokens.json"

    @property
    def chat_template(self) -> Path:
        """The chat template, where it is a file of its own."""
        return self.path / "chat_template.jinja"

    @property
    def additional_chat_templates(self) -> tuple[Path, ...]:
        """Chat templates for other ends than conversations, as far as they are there."""
        return tuple(sorted((self.path / "additional_chat_templates").glob("*.jinja")))

    @property
    def companions(self) -> tuple[Path, ...]:
        """What generation and serving need beside the graph, as far as it is there.

        Raises:
            ArtifactError: One is a link to something else, whose contents would be copied.
        """
        paths = (
            self.config,
            self.generation_config,
            self.tokenizer,
            self.tokenizer_config,
            self.special_tokens,
            self.added_tokens,
            self.chat_template,
            *self.additional_chat_templates,
        )
        found = tuple(filter(is_there, paths))
        for path in found:
            self._require_own(path)
        return found

    def _require_own(self, path: Path) -> None:
        """Refuses a link to a file of another kind: a checkpoint from elsewhere would copy any file.

        What people link together, such as another checkpoint's tokenizer.json, has the same name at both
        ends; in Hugging Face's cache a snapshot's files are links into the blobs of the same repository.
        """
        target, here = path.resolve(), self.path.resolve()
        blobs = here.parent.parent / "blobs" if here.parent.name == "snapshots" else here
        if target.name == path.name or target.is_relative_to(here) or target.is_relative_to(blobs):
            return
        raise ArtifactError(
            "A file of the directory is a link to something else, and its contents would be copied.",
            where=path,
            found=f"a link to {target}",
            expected=f"a file, or a link to one that is called {path.name} too",
            fix="put the file itself there, if its contents are meant",
        )

    def copy_companions_to(self, directory: Path) -> None:
        """Copies them into another directory."""
        self.copy_files_to(directory, self.companions)

    def copy_files_to(self, directory: Path, paths: Iterable[Path]) -> None:
        """Copies files of this directory into another one, under the same names.

        Raises:
            ArtifactError: One is a link to something else, or larger than a tokenizer may be.
        """
        for path in paths:
            self._require_own(path)
            target = directory / path.relative_to(self.path)
            target.parent.mkdir(exist_ok=True)
            copy_file(path, target, limit=TOKENIZER_BYTES)
