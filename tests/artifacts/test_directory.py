"""Files beside a model: what is there is copied or refused, and never left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny_checkpoints import write_tokenizer

from r1trt.artifacts.directory import ModelDirectory
from r1trt.errors import R1TrtError
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir

NAMES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
OTHERS = {
    "pipe": (os.mkfifo, "a named pipe"),
    "folder": (os.mkdir, "a directory"),
    "link to nowhere": (lambda path: os.symlink(path.parent / "gone" / path.name, path), "No such file"),
    "link to a device": (lambda path: os.symlink("/dev/zero", path), "/dev/zero"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_file_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    write_tokenizer(source)
    target.mkdir()
    (source / name).unlink(missing_ok=True)
    make, found = OTHERS[kind]
    make(source / name)
    with pytest.raises(R1TrtError, match=found) as caught:
        ModelDirectory(path=source).copy_companions_to(target)
    assert str(source / name) in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_tokenizer_reads_no_pipe_and_passes_over_none(tmp_path: Path, name: str) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(R1TrtError, match="a named pipe") as caught:
        tokenizer_from_dir(tmp_path)
    assert str(tmp_path / name) in str(caught.value)
