from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import write_tokenizer
from transformers import AutoTokenizer

from r1trt.errors import CheckpointError, ConfigError
from r1trt.files import TEXT_BYTES
from r1trt.tokenizer.chat_template import ChatTemplate
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir

MESSAGES = [
    {"role": "system", "content": 'You say "<hello>" & nothing else.'},
    {"role": "user", "content": "Grüße, 世界! 🦙"},
    {"role": "assistant", "content": "  <hello>\n"},
    {"role": "user", "content": ""},
]

# Forms that the templates of real checkpoints use.
TEMPLATES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "blocks on lines of their own": "{% for m in messages %}\n    {%- if loop.first %}\n{{ bos_token }}\n"
    "    {% endif %}\n  [{{ m['role'] }}] {{ m['content'] | trim }}\n{% endfor %}\n",
    "tojson": "{% for m in messages %}{{ m | tojson }}{{ m | tojson(indent=2) }}{% endfor %}",
    "namespace and loop controls": "{% set ns = namespace(n=0) %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% continue %}{% endif %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ m.content }}"
    "{% if ns.n == 2 %}{% break %}{% endif %}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "tools and documents": "{{ tools is none }}{{ documents is none }}{{ eos_token }}{{ messages[0].role }}",
    "date": "{{ strftime_now('%Y') }}",
}

RAG = "additional_chat_templates/rag.jinja"
# Files, and what tokenizer_config.json says beside them.
FORMS: dict[str, Callable[[str], tuple[dict[str, str], Any]]] = {
    "a file": lambda template: ({"chat_template.jinja": template, RAG: "wrong"}, None),
    "a file wins": lambda template: ({"chat_template.jinja": template}, "wrong"),
    "files win": lambda template: (
        {RAG: "wrong", "additional_chat_templates/default.jinja": template}, {"default": "wrong"}
    ),
    "text": lambda template: ({}, template),
    "list": lambda template: (
        {}, [{"name": "rag", "template": "wrong"}, {"name": "default", "template": template}]
    ),
    "dictionary": lambda template: ({}, {"tool_use": "wrong", "default": template}),
}  # fmt: skip

TEXTS = [
    "plain words",
    " leading and trailing ",
    "naïve café, 世界, 🦙🧑‍🚀, ĀāĂ",
    "tabs\tand\nlines\r\n",
    "<|im_start|>user<|im_end|>",
    "a" * 200,
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path)
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", TEMPLATES)
def test_chat_template_equals_transformers(tmp_path: Path, directory: Path, case: str, form: str) -> None:
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    _put_template(tmp_path, TEMPLATES[case], form)
    oracle = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer = tokenizer_from_dir(tmp_path)
    assert tokenizer.chat_template is not None
    want = oracle.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    got = tokenizer.chat_template.render(MESSAGES, special_tokens=tokenizer.special_tokens)
    assert got == want
    ids = oracle.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert tokenizer.encode_chat(MESSAGES) == ids


def _put_template(directory: Path, template: str, form: str) -> None:
    (directory / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    files, config["chat_template"] = FORMS[form](template)
    (directory / "additional_chat_templates").mkdir()
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def test_templates_without_a_default(tmp_path: Path, directory: Path) -> None:
    """They are seen: a conversation is refused with their names, not sent as raw text."""
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    _put_template(tmp_path, "x", "a file")
    (tmp_path / "chat_template.jinja").unlink()
    tokenizer = tokenizer_from_dir(tmp_path)
    assert tokenizer.chat_template is None and not tokenizer.is_raw
    with pytest.raises(ConfigError, match="several chat templates") as caught:
        tokenizer.encode_chat(MESSAGES)
    assert caught.value.details["found"] == "rag"


def test_a_model_without_templates(tmp_path: Path, directory: Path) -> None:
    for file in directory.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer = tokenizer_from_dir(tmp_path)
    assert tokenizer.is_raw
    with pytest.raises(ConfigError, match="no chat template"):
        tokenizer.encode_chat(MESSAGES)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_transformers(directory: Path, text: str) -> None:
    tokenizer = tokenizer_from_dir(directory)
    assert tokenizer.encode(text) == AutoTokenizer.from_pretrained(directory)(text).input_ids
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


def test_the_sandbox_holds() -> None:
    for attack in (
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no') }}",
        "{{ x.y }}",
    ):
        with pytest.raises(ConfigError, match="refused"):
            ChatTemplate(attack, where=Path("t")).render(MESSAGES, special_tokens={})
    with pytest.raises(CheckpointError, match="not valid Jinja"):
        ChatTemplate("{% for %}", where=Path("t")).require_valid()


EOS_CASES: dict[str, tuple[dict[str, Any], dict[str, Any], set[int]]] = {
    "tokenizer only": ({}, {}, {1}),
    "config": ({"eos_token_id": 7}, {}, {1, 7}),
    "generation config wins": ({"eos_token_id": 7}, {"eos_token_id": [3, 4]}, {1, 3, 4}),
    "null is no id": ({"eos_token_id": None}, {"eos_token_id": None}, {1}),
}


@pytest.mark.parametrize("case", EOS_CASES)
def test_eos_ids(tmp_path: Path, case: str) -> None:
    config, generation_config, expected = EOS_CASES[case]
    write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(json.dumps(generation_config))
    assert tokenizer_from_dir(tmp_path).eos_ids == expected


def _remove(path: Path) -> None:
    (path / "tokenizer.json").unlink()


def _damage(path: Path) -> None:
    (path / "tokenizer.json").write_text("{}")


def _damage_config(path: Path) -> None:
    (path / "tokenizer_config.json").write_text("[]")


def _nest_config(path: Path) -> None:
    (path / "tokenizer_config.json").write_text("[" * 100_000)


def _nest_model_config(path: Path) -> None:
    (path / "config.json").write_text('{"eos_token_id": ' + "[" * 100_000)


def _nest_end_tokens(path: Path) -> None:
    (path / "generation_config.json").write_text('{"eos_token_id": [1, [2]]}')


DAMAGES = (_remove, _damage, _damage_config, _nest_config, _nest_model_config, _nest_end_tokens)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_directories(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write_tokenizer(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError):
        tokenizer_from_dir(tmp_path)


def test_without_a_template(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="no chat template"):
        tokenizer_from_dir(tmp_path).encode_chat(MESSAGES)


BPE = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
NO_UNKNOWN = {"type": "Unigram", "unk_id": None, "vocab": []}


def odd_tokenizer(directory: Path, **parts: Any) -> TextTokenizer:
    document = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": BPE, **parts,
    }  # fmt: skip
    (directory / "tokenizer.json").write_text(json.dumps(document))
    return tokenizer_from_dir(directory)


def test_a_panic_of_the_library_is_an_error(tmp_path: Path) -> None:
    tokenizer = odd_tokenizer(tmp_path, decoder={"type": "Strip", "content": "a", "start": 5, "stop": 5})
    with pytest.raises(CheckpointError, match="cannot write these tokens") as caught:
        tokenizer.decode(tokenizer.encode("a"))
    assert "index out of bounds" in str(caught.value)


def test_what_the_library_raises_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read this text"):
        odd_tokenizer(tmp_path, model=NO_UNKNOWN).encode("b")
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        odd_tokenizer(tmp_path, model={"type": "no such model"})
    assert str(tmp_path / "tokenizer.json") in str(caught.value)


def test_text_that_is_no_unicode_or_has_no_end_is_refused(directory: Path) -> None:
    tokenizer = tokenizer_from_dir(directory)
    with pytest.raises(ConfigError, match="not Unicode"):
        tokenizer.encode("a\ud800")
    with pytest.raises(ConfigError, match="not Unicode"):
        tokenizer.encode_chat([{"role": "user", "content": "\udcff"}])
    with pytest.raises(ConfigError, match="too long"):
        tokenizer.encode("a" * (TEXT_BYTES + 1))
