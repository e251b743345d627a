"""Rendering chat templates as `transformers` does, in Jinja's sandbox: templates come with checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox

from r1trt.artifacts.directory import ModelDirectory
from r1trt.errors import CheckpointError, ConfigError
from r1trt.runtime.template_limits import LimitError, limited, require_small_power, require_small_product

Message = Mapping[str, Any]


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's part for training; rendering passes its body through."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox, without operations that make much of little."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        (require_small_product if operator == "*" else require_small_power)(left, right)
        return super().call_binop(context, operator, left, right)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which would change what the model reads.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja text.
        where: File that it comes from, for messages.

    Raises:
        CheckpointError: The template is not valid Jinja.
    """

    def __init__(self, source: str, *, where: Path) -> None:
        self._where = where
        environment = _Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            with limited():
                self._template = environment.from_string(source)
        except Exception as error:  # Python's compiler and Jinja's optimizer raise theirs, too
            raise CheckpointError(
                "The chat template is not valid Jinja.", where=where, found=_said(error)
            ) from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        special_tokens: Mapping[str, str],
        add_generation_prompt: bool = True,
        **variables: object,
    ) -> str:
        """Renders messages.

        Args:
            messages: `{"role": ..., "content": ...}` each.
            special_tokens: For instance `bos_token`, by the names of `tokenizer_config.json`.
            add_generation_prompt: End with what opens the assistant's turn.
            variables: Further names that the template may use.

        Raises:
            ConfigError: The template refuses the messages.
        """
        names: dict[str, object] = {"tools": None, "documents": None, **special_tokens, **variables}
        try:
            with limited():
                return self._template.render(
                    messages=[dict(message) for message in messages],
                    add_generation_prompt=add_generation_prompt,
                    **names,
                )
        except Exception as error:  # a template is a program, and raises what programs do
            raise ConfigError(
                "The chat template refused the messages.", where=self._where, found=_said(error)
            ) from error


def _said(error: Exception) -> str:
    """What was raised, by name where it is no word of the template's or ours."""
    known = isinstance(error, jinja2.TemplateError | LimitError)
    return str(error) if known else f"{type(error).__name__}: {error}"


def chat_template_from_dir(directory: Path, tokenizer_config: Mapping[str, Any]) -> ChatTemplate | None:
    """A checkpoint's template: in `chat_template.jinja`, else `tokenizer_config.json`; None without one."""
    files = ModelDirectory(path=directory)
    path = files.chat_template
    if path.is_file():
        return ChatTemplate(_text_of(path), where=path)
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        template = _default_of(template, files.tokenizer_config)
    return ChatTemplate(template, where=files.tokenizer_config) if isinstance(template, str) else None


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError("The chat template is not UTF-8.", where=path, found=error) from error


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
