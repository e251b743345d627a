"""Hashes of files made while they are read: whatever the reader takes, the whole file is hashed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest

from r1trt.checkpoint.content_hash import ContentHash
from r1trt.errors import CheckpointError

DATA = bytes(range(256)) * 40


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(DATA)
    return path


@pytest.fixture(scope="module")
def beside() -> Iterator[Executor]:
    with ThreadPoolExecutor(max_workers=1) as executor:
        yield executor


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [(0, len(DATA))],
        [(0, 100), (100, 5000)],
        [(100, 200), (5000, 5001)],
        [(100, 300), (100, 300), (200, 400), (250, 260)],
        [(len(DATA), len(DATA))],
    ],
    ids=["none", "whole", "adjoining", "holes", "overlaps", "empty"],
)
def test_the_whole_file_is_hashed(file: Path, beside: Executor, pieces: list[tuple[int, int]]) -> None:
    content = ContentHash(file, beside)
    for start, stop in pieces:
        content.add(start, memoryview(DATA)[start:stop])
    assert content.content().sha256 == hashlib.sha256(DATA).hexdigest()


def test_what_was_passed_on_counts_and_not_what_lies_there(file: Path, beside: Executor) -> None:
    content = ContentHash(file, beside)
    changed = b"x" * 100
    content.add(50, memoryview(changed))
    assert content.content().sha256 == hashlib.sha256(DATA[:50] + changed + DATA[150:]).hexdigest()


def test_a_file_that_shrinks_is_refused(file: Path, beside: Executor) -> None:
    content = ContentHash(file, beside)
    os.truncate(file, 100)
    with pytest.raises(CheckpointError, match="too short"):
        content.content()


def test_a_file_that_is_gone_is_refused(file: Path, beside: Executor) -> None:
    content = ContentHash(file, beside)
    file.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        content.content()
    with pytest.raises(CheckpointError, match="cannot be read"):
        ContentHash(file, beside)


def test_a_file_that_is_written_meanwhile_is_noticed(file: Path, beside: Executor) -> None:
    content = ContentHash(file, beside).content()
    content.require_unmodified()
    file.with_name("other").write_bytes(DATA)
    file.with_name("other").replace(file)
    with pytest.raises(CheckpointError, match="changed while it was used"):
        content.require_unmodified()
