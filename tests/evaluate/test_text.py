from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import write_tokenizer

from r1trt.errors import ConfigError
from r1trt.evaluate.text import (
    Document,
    default_documents,
    documents_from_file,
    token_ids,
    windows_from_documents,
)
from r1trt.runtime.tokenizer import TextTokenizer, tokenizer_from_dir


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return tokenizer_from_dir(directory)


@pytest.mark.parametrize("size", [2, 7, 10_000])
def test_windows_are_the_text(tokenizer: TextTokenizer, size: int) -> None:
    text = "It was the best of times, it was the worst of times." * 3
    ids = tokenizer.encode(text)
    windows = windows_from_documents([Document(text=text)], tokenizer, size=size, max_tokens=10_000)
    assert np.concatenate([window.input_ids for window in windows]).tolist() == ids
    assert np.concatenate([window.targets for window in windows]).tolist() == [*ids[1:], -1]
    assert max(len(window.input_ids) for window in windows) <= size


def test_long_texts_do_not_crowd_out_short_ones(tokenizer: TextTokenizer) -> None:
    documents = [Document(text="a b c d e f " * 100), Document(text="short one")]
    windows = windows_from_documents(documents, tokenizer, size=16, max_tokens=50)
    assert windows[0].input_ids.tolist() == tokenizer.encode("short one")[:16]
    assert sum(len(window.input_ids) for window in windows) == 50


def test_files(tmp_path: Path) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("One text.\nOf two lines.\n")
    messages = [{"role": "user", "content": "hi"}]
    entries = [{"text": "t"}, {"prompt": "p"}, {"messages": messages}]
    lines.write_text("\n\n".join(json.dumps(entry) for entry in entries))
    assert documents_from_file(plain) == [Document(text="One text.\nOf two lines.\n")]
    assert documents_from_file(lines) == [
        Document(text="t"),
        Document(messages=({"role": "user", "content": "p"},)),
        Document(messages=(messages[0],)),
    ]


def test_messages_go_through_the_chat_template(tokenizer: TextTokenizer) -> None:
    messages = ({"role": "user", "content": "hi"},)
    assert token_ids(Document(messages=messages), tokenizer) == tokenizer.encode_chat(messages)


BAD_FILES = {
    "a.txt": (b" \n", "empty"),
    "b.jsonl": (b"", "empty"),
    "c.jsonl": (b'{"text": "x"}\n{"text": 1}\n', "line 2"),
    "d.jsonl": (b'"text"', "another form"),
    "e.jsonl": (b'{"messages": []}', "another form"),
    "f.jsonl": (b"{", "not JSON"),
    "g.txt": (b"\xff\xfe", "cannot be read"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_of_another_form(tmp_path: Path, name: str) -> None:
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        documents_from_file(tmp_path / name)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        documents_from_file(tmp_path / "none.txt")


def test_text_that_is_too_short(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ConfigError, match="too short"):
        windows_from_documents([Document(text="a")], tokenizer, size=8, max_tokens=8)


def test_default_text_is_enough(tokenizer: TextTokenizer) -> None:
    windows = windows_from_documents(default_documents(), tokenizer, size=512, max_tokens=4096)
    assert sum(len(window.input_ids) for window in windows) == 4096
