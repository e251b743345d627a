"""Chat templates: programs that come with checkpoints, rendered in a process of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1trt.artifacts.directory import ModelDirectory
from r1trt.errors import CheckpointError, ConfigError
from r1trt.files import TEMPLATE_BYTES, is_there, text_of_file
from r1trt.tokenizer.limited_process import ForeignError, LimitedProcess, Limits
from r1trt.tokenizer.tools import Tool, messages_for_template, require_tools_in

Message = Mapping[str, Any]

DEFAULT = "default"


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
        self._where, self._source = where, source
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
        tools: Sequence[Tool] = (),
    ) -> str:
        """Renders messages.

        Args:
            messages: `{"role": ..., "content": ...}` each.
            special_tokens: For instance `bos_token`, by the names of `tokenizer_config.json`.
            tools: What the model may call.
            add_generation_prompt: End with what opens the assistant's turn.

        Raises:
            CheckpointError: The template is not valid Jinja.
            ConfigError: It refuses the messages, takes no tools, or takes more time or memory than it may.
        """
        self.require_valid()
        if tools:
            require_tools_in(self._source)
        names = {
            "tools": [dict(tool) for tool in tools] or None,
            "documents": None,
            **special_tokens,
            "messages": messages_for_template(messages, self._source),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return str(self._process.call(names))
        except ForeignError as error:
            raise ConfigError(
                "The chat template refused the messages.", where=self._where, found=error
            ) from error


@dataclass(frozen=True, kw_only=True)
class ChatTemplates:
    """The templates that a directory has, by name.

    Attributes:
        sources: Jinja texts.
        where: The file that each comes from.
    """

    sources: Mapping[str, str]
    where: Mapping[str, Path]

    @property
    def default(self) -> ChatTemplate | None:
        """The one for conversations without tools; None where no one is called so."""
        if DEFAULT not in self.sources:
            return None
        return ChatTemplate(self.sources[DEFAULT], where=self.where[DEFAULT])


def chat_templates_from_dir(directory: Path, tokenizer_config: Mapping[str, Any]) -> ChatTemplates:
    """A checkpoint's templates: files where there are any, else those in `tokenizer_config.json`.

    Args:
        directory: With `chat_template.jinja`, and others in `additional_chat_templates`.
        tokenizer_config: `chat_template` in it is a text, or templates by name.

    Raises:
        CheckpointError: A file cannot be read, or what is listed are no templates.
    """
    files = ModelDirectory(path=directory)
    paths = {path.stem: path for path in files.additional_chat_templates}
    if is_there(files.chat_template):
        paths = {DEFAULT: files.chat_template} | paths
    if paths:
        texts = {name: text_of_file(path, limit=TEMPLATE_BYTES) for name, path in paths.items()}
        return ChatTemplates(sources=texts, where=paths)
    sources = _named(tokenizer_config.get("chat_template"), files.tokenizer_config)
    return ChatTemplates(sources=sources, where=dict.fromkeys(sources, files.tokenizer_config))


def _named(value: Any, where: Path) -> dict[str, str]:
    """The templates of a configuration: one text, a list of named ones, or a dictionary."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: value}
    entries = value if isinstance(value, list) else [value]
    named = value if isinstance(value, Mapping) else dict(_pair(entry, where) for entry in entries)
    for name, template in named.items():
        if not isinstance(template, str):
            raise _no_templates(where, {name: template})
    return dict(named)


def _pair(entry: Any, where: Path) -> tuple[str, Any]:
    if not isinstance(entry, Mapping) or not {"name", "template"} <= entry.keys():
        raise _no_templates(where, entry)
    return str(entry["name"]), entry["template"]


def _no_templates(where: Path, found: Any) -> CheckpointError:
    return CheckpointError(
        "chat_template is no template, and no list of named ones.",
        where=where,
        found=repr(found)[:200],
        expected='Jinja text, {"default": "..."}, or {"name": "default", "template": "..."} in a list',
    )
