"""Chat templates are programs from elsewhere: what they raise is an error of ours, and they end."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from r1trt.errors import CheckpointError, ConfigError, R1TrtError
from r1trt.runtime import chat_template
from r1trt.runtime.chat_template import ChatTemplate, chat_template_from_dir
from r1trt.runtime.template_limits import LimitError, limited

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
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_ends(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "limited", lambda: limited(seconds=0.3))
    began = time.monotonic()
    with pytest.raises(ConfigError, match="refused") as caught:
        ChatTemplate(ENDLESS[name], where=Path("t")).render(MESSAGES, special_tokens={})
    assert time.monotonic() - began < 5
    assert "it runs for more than" in str(caught.value)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "limited", lambda: limited(memory=50 * 10**6))
    doubling = (
        "{% set ns = namespace(x='x') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
    )
    with pytest.raises(ConfigError, match="refused") as caught:
        ChatTemplate(doubling, where=Path("t")).render(MESSAGES, special_tokens={})
    assert "MB of memory" in str(caught.value)


def test_the_interpreter_is_left_as_it_was() -> None:
    before = sys.gettrace()
    with pytest.raises(LimitError), limited(seconds=-1):
        time.sleep(0)
        _nothing()
    assert sys.gettrace() is before


def _nothing() -> None:
    return None


@pytest.mark.parametrize("templates", [[1], [{"name": "default"}], [{"template": "x"}]], ids=str)
def test_named_templates_need_a_name_and_a_template(templates: list[Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a list of named templates"):
        chat_template_from_dir(tmp_path, {"chat_template": templates})


def test_a_template_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xee")
    with pytest.raises(CheckpointError, match="not UTF-8"):
        chat_template_from_dir(tmp_path, {})
