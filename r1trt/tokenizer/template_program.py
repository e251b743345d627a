"""Rendering a chat template as `transformers` does, in Jinja's sandbox; runs in a process with limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from r1trt.files import TEXT_BYTES


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's part for training; rendering passes its body through."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _TemplateError(jinja2.TemplateError):
    """What a template says itself, or what is said of its result."""

    is_plain = True


def _raise_exception(message: str) -> NoReturn:
    raise _TemplateError(message)


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


def template_program(setup: bytes) -> Callable[[dict[str, Any]], str]:
    """Compiles a template.

    Args:
        setup: Jinja text in UTF-8.

    Returns:
        Renders it with the names of a request.
    """
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    template = environment.from_string(setup.decode("utf-8"))

    def render(names: dict[str, Any]) -> str:
        text = template.render(**names)
        size = len(text.encode("utf-8"))
        if size > TEXT_BYTES:
            raise _TemplateError(f"it makes a text of {size} bytes; at most {TEXT_BYTES} are read")
        return text

    return render
