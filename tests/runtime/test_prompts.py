"""Documents from files, and their token ids by the checkpoint's own tokenizer and template."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_checkpoints import write_tokenizer

from r1trt.errors import ConfigError
from r1trt.runtime.prompts import Document, documents_from_file, encoded_documents, token_ids
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir

USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Ho"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> TextTokenizer:
    return tokenizer_from_dir(directory)


def test_files(tmp_path: Path) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("One text.\nOf two lines.\n")
    parts = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    entries = [
        {"text": "t"}, {"prompt": "p"}, {"messages": [USER, ASSISTANT]}, {"messages": [parts, ASSISTANT]}
    ]  # fmt: skip
    lines.write_text("\n\n".join(json.dumps(entry) for entry in entries))
    assert documents_from_file(plain) == [Document(text="One text.\nOf two lines.\n")]
    assert documents_from_file(lines) == [
        Document(text="t"),
        Document(messages=({"role": "user", "content": "p"},)),
        Document(messages=(USER, ASSISTANT)),
        Document(messages=(USER, ASSISTANT)),
    ]


def test_line_separators_may_stand_inside_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "one\u2028two\x85three"}, ensure_ascii=False), encoding="utf-8")
    assert documents_from_file(path) == [Document(text="one\u2028two\x85three")]


BAD_FILES = {
    "a.txt": (b" \n", "empty"),
    "b.jsonl": (b"", "empty"),
    "g.txt": (b"\xff\xfe\xff", "UTF-8"),
    "h.jsonl": (b"\xff", "UTF-8"),
    "i.csv": (b"a", "another form"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_of_another_form(tmp_path: Path, name: str) -> None:
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        documents_from_file(tmp_path / name)


BAD_LINES = {
    "not JSON": ("{text: one}", "not JSON"),
    "cut off": ("{", "not JSON"),
    "nested for ever": ("[" * 100_000, "not JSON"),
    "another key": ('{"content": "one"}', "another form"),
    "a list": ("[1]", "another form"),
    "a string": ('"text"', "another form"),
    "text is a number": ('{"text": 3}', "another form"),
    "no messages": ('{"messages": []}', "not a conversation"),
    "message without content": ('{"messages": [{"role": "user"}]}', "not a conversation"),
    "content is a number": ('{"messages": [{"role": "user", "content": 3}]}', "not a conversation"),
    "half a surrogate pair": (r'{"text": "\ud800"}', "not Unicode"),
    "half a surrogate pair in a message": (
        r'{"messages": [{"role": "user", "content": "\udfff"}]}',
        "not Unicode",
    ),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_named(tmp_path: Path, case: str) -> None:
    line, message = BAD_LINES[case]
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": "one"}\n' + line + "\n")
    with pytest.raises(ConfigError, match=rf"{message}(.|\n)*c\.jsonl, line 2"):
        documents_from_file(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        documents_from_file(tmp_path / "none.txt")


def test_messages_go_through_the_chat_template(tokenizer: TextTokenizer) -> None:
    assert token_ids(Document(messages=(USER,)), tokenizer) == tokenizer.encode_chat((USER,))


def test_an_answered_conversation_opens_no_further_turn(tokenizer: TextTokenizer) -> None:
    ids = token_ids(Document(messages=(USER, ASSISTANT)), tokenizer)
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
    assert ids == tokenizer.encode(text, add_special_tokens=False)


def test_without_a_template_messages_are_plain_text(tmp_path: Path, directory: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    bare = tokenizer_from_dir(tmp_path)
    assert token_ids(Document(messages=(USER, ASSISTANT)), bare) == bare.encode("Hi\nHo")


def test_ids_beyond_the_vocabulary(tokenizer: TextTokenizer) -> None:
    document = Document(text="The quick brown fox")
    ids = tokenizer.encode(document.text)
    assert encoded_documents([document], tokenizer, vocab_size=max(ids) + 1) == [ids]
    with pytest.raises(ConfigError, match=f"token id {max(ids)}"):
        encoded_documents([document, replace(document, text="a")], tokenizer, vocab_size=max(ids))
