"""Chat templates: programs that come with checkpoints, rendered in a process of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1trt.artifacts.directory import ModelDirectory
from r1trt.errors import CheckpointError, ConfigError
from r1trt.files import TEMPLATE_BYTES, text_of_file
from r1trt.runtime.limited_process import ForeignError, LimitedProcess, Limits

Message = Mapping[str, Any]


class ChatTemplate:
    """A chat template; it is compiled while other work goes on.

    Args:
        source: Jinja text.
        where: File that it comes from, for messages.
        limits: What compiling and rendering may take.

    Raises:
        CheckpointError: The text is not Unicode, or too long.
    """

    def __init__(self, source: str, *, where: Path, limits: Limits | None = None) -> None:
        self._where = where
        try:
            data = source.encode("utf-8")
        except UnicodeEncodeError as error:
            raise CheckpointError(
                "The chat template is not Unicode.", where=where, found=error.reason
            ) from error
        if len(data) > TEMPLATE_BYTES:
            raise CheckpointError(
                "The chat template is too long.",
                where=where,
                found=f"{len(data)} bytes",
                expected=f"at most {TEMPLATE_BYTES}",
            )
        self._process = LimitedProcess("template", data, limits or Limits())

    def require_valid(self) -> None:
        """Waits until the template is compiled.

        Raises:
            CheckpointError: It is not valid Jinja.
        """
        try:
            self._process.require_ready()
        except ForeignError as error:
            raise CheckpointError(
                "The chat template is not valid Jinja.", where=self._where, found=error
            ) from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        special_tokens: Mapping[str, str],
        add_generation_prompt: bool = True,
    ) -> str:
        """Renders messages.

        Args:
            messages: `{"role": ..., "content": ...}` each.
            special_tokens: For instance `bos_token`, by the names of `tokenizer_config.json`.
            add_generation_prompt: End with what opens the assistant's turn.

        Raises:
            CheckpointError: The template is not valid Jinja.
            ConfigError: It refuses the messages, or takes more time or memory than it may.
        """
        self.require_valid()
        names = {
            "tools": None,
            "documents": None,
            **special_tokens,
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return str(self._process.call(names))
        except ForeignError as error:
            raise ConfigError(
                "The chat template refused the messages.", where=self._where, found=error
            ) from error


def chat_template_from_dir(directory: Path, tokenizer_config: Mapping[str, Any]) -> ChatTemplate | None:
    """A checkpoint's template: in `chat_template.jinja`, else `tokenizer_config.json`; None without one."""
    files = ModelDirectory(path=directory)
    path = files.chat_template
    if path.is_file():
        return ChatTemplate(text_of_file(path, limit=TEMPLATE_BYTES), where=path)
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        template = _default_of(template, files.tokenizer_config)
    return ChatTemplate(template, where=files.tokenizer_config) if isinstance(template, str) else None


def _default_of(templates: Sequence[Any], where: Path) -> Any:
    """The template called `default` of a list of named ones; None where no one is called so."""
    named = {}
    for entry in templates:
        if not isinstance(entry, Mapping) or not {"name", "template"} <= entry.keys():
            raise CheckpointError(
                "chat_template is not a list of named templates.",
                where=where,
                found=repr(entry)[:200],
                expected='{"name": "default", "template": "..."} each',
            )
        named[str(entry["name"])] = entry["template"]
    return named.get("default")
