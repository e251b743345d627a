"""How calibration text is cut: from all documents in turn, short ones joined."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from r1trt.calibrate.text import token_chunks
from r1trt.errors import PlanError


def test_too_little_text() -> None:
    with pytest.raises(PlanError, match="too short"):
        token_chunks([range(5)], length=64, tokens=1000)


def test_no_text() -> None:
    with pytest.raises(PlanError, match="0 tokens"):
        token_chunks([], length=64, tokens=1000)


def test_chunks_come_from_all_documents_in_turn() -> None:
    chunks = token_chunks([range(1000), range(1000, 2000)], length=100, tokens=400)
    assert [chunk.tolist() for chunk in chunks] == [
        list(range(start, start + 100)) for start in (0, 1000, 100, 1100)
    ]


def test_less_than_half_a_chunk_is_left_out() -> None:
    chunks = token_chunks([range(149), range(1000, 1150), range(2000, 2300)], length=100, tokens=1000)
    assert [len(chunk) for chunk in chunks] == [100, 100, 100, 50, 100, 100]


def test_many_short_documents_are_joined() -> None:
    chunks = token_chunks([range(10)] * 100, length=128, tokens=300)
    assert [len(chunk) for chunk in chunks] == [128, 128, 128]


def test_no_more_documents_are_read_than_the_tokens_come_from() -> None:
    read = []

    def documents() -> Iterator[list[int]]:
        for number in range(1000):
            read.append(number)
            yield [number] * 100

    chunks = token_chunks(documents(), length=100, tokens=1000)
    assert len(chunks) == 10 and len(read) == 10


def test_many_short_documents_are_read_up_to_a_limit() -> None:
    read = []

    def documents() -> Iterator[list[int]]:
        for number in range(10_000):
            read.append(number)
            yield [number] * 10

    chunks = token_chunks(documents(), length=100, tokens=1000)
    assert len(chunks) == 10 and len(read) == 1600
