"""Chat templates are programs from elsewhere: what they raise is an error of ours, and they end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from r1trt.errors import CheckpointError, ConfigError, R1TrtError
from r1trt.tokenizer.chat_template import ChatTemplate, chat_templates_from_dir
from r1trt.tokenizer.limited_process import Limits

MESSAGES = [{"role": "user", "content": "hi"}]
REFUSED = {
    "division": "{{ 1 // 0 }}",
    "range": "{% for i in range(100001) %}x{% endfor %}",
    "recursion in a macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "nested expression": "{{ " + "(" * 300 + "1" + ")" * 300 + " }}",
    "25 nested loops": "{% for i in x %}" * 25 + "{% endfor %}" * 25,
    "120 nested ifs": "{% if x %}" * 120 + "{% endif %}" * 120,
    "cycler": "{{ cycler() }}",
    "truncate": "{{ 'x'|truncate(-1) }}",
    "infinity": "{{ (1e308*10)|int }}",
    "a text too long": "{{ messages[0].content * 10**14 }}",
    "a list too long": "{{ 10**9 * messages }}",
    "a power": "{{ messages|length + 9 ** (10**9) }}",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_template_raises_is_our_error(name: str) -> None:
    with pytest.raises(R1TrtError, match="chat template"):
        ChatTemplate(REFUSED[name], where=Path("t")).render(MESSAGES, special_tokens={})


ENDLESS = {
    "with output": "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
    "without": "{% for i in range(9999) %}{% for j in range(99999) %}{% set k = j %}{% endfor %}{% endfor %}",
    "in one operation": "{{ 10**9 ** 2 }}{{ 7 ** (10**8) % 3 }}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_ends(name: str) -> None:
    template = ChatTemplate(ENDLESS[name], where=Path("t"), limits=Limits(seconds=0.5))
    with pytest.raises(R1TrtError, match="it runs for more than"):
        template.render(MESSAGES, special_tokens={})


LARGE = {
    "doubling": "{% set n = namespace(x='x') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "a product": "{{ ('a' * 10**9)|length }}",
    "a width": "{{ '%1000000000d' % 1 }}",
    "a format": "{{ '{:>1000000000}'.format(1) }}",
    "center": "{{ 'a'|center(10**9) }}",
    "indent": "{{ ('a\n' * 10**6)|indent(10**6) }}",
    "replace": "{{ ('a' * 10**6)|replace('a', 'b' * 10**6) }}",
    "join": "{{ range(10**5)|join('x' * 10**6) }}",
    "ljust": "{{ 'a'.ljust(10**9) }}",
    "a list": "{{ ([0] * 10**9)|length }}",
    "its result": "{{ 'a' * (5 * 10**6) }}",
}


@pytest.mark.parametrize("name", LARGE)
def test_memory_is_bounded(name: str) -> None:
    with pytest.raises(R1TrtError, match=r"memory|at most"):
        ChatTemplate(LARGE[name], where=Path("t")).render(MESSAGES, special_tokens={})


def test_a_template_that_was_ended_can_be_rendered_again() -> None:
    source = "{% if messages[0].content == 'long' %}" + ENDLESS["without"] + "{% endif %}short"
    template = ChatTemplate(source, where=Path("t"), limits=Limits(seconds=0.5))
    with pytest.raises(ConfigError, match="refused"):
        template.render([{"role": "user", "content": "long"}], special_tokens={})
    assert template.render(MESSAGES, special_tokens={}) == "short"


def test_text_that_is_not_unicode() -> None:
    with pytest.raises(CheckpointError, match="not Unicode"):
        ChatTemplate("\ud800", where=Path("t"))
    with pytest.raises(ConfigError, match="refused"):
        ChatTemplate("{{ '\\ud800' }}", where=Path("t")).render(MESSAGES, special_tokens={})


NO_TEMPLATES = [
    1,
    [1],
    [{"name": "default"}],
    [{"template": "x"}],
    {"default": 1},
    [{"name": "a", "template": []}],
]


@pytest.mark.parametrize("templates", NO_TEMPLATES, ids=str)
def test_named_templates_need_a_name_and_a_template(templates: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no template, and no list of named ones"):
        chat_templates_from_dir(tmp_path, {"chat_template": templates})


def test_a_template_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xee")
    with pytest.raises(CheckpointError, match="not text in UTF-8"):
        chat_templates_from_dir(tmp_path, {})
