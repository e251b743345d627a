"""What a row was made of: cut, continued and copied as the rows of the caches are."""

from __future__ import annotations

import pytest

from r1trt.cluster.row_history import RowHistory


def history() -> RowHistory:
    """A prompt of 7 tokens in two pieces, and three that were generated."""
    made = RowHistory()
    for piece in ([0, 1, 2, 3], [4, 5, 6], [7], [8], [9]):
        made.append(piece)
    return made


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (0, []),
        (3, [(0, [0, 1, 2])]),
        (4, [(0, [0, 1, 2, 3])]),
        (5, [(0, [0, 1, 2, 3]), (4, [4])]),
        (8, [(0, [0, 1, 2, 3]), (4, [4, 5, 6]), (7, [7])]),
        (10, [(0, [0, 1, 2, 3]), (4, [4, 5, 6]), (7, [7]), (8, [8]), (9, [9])]),
    ],
)
def test_pieces(tokens: int, expected: list[tuple[int, list[int]]]) -> None:
    made = history()
    assert made.pieces(tokens) == expected
    assert made.pieces(10) == history().pieces(10)  # asking changes nothing


def test_another_continuation_takes_the_place_of_the_first() -> None:
    made = history()
    made.cut(5)
    made.append([50, 60])
    assert made.pieces(7) == [(0, [0, 1, 2, 3]), (4, [4]), (5, [50, 60])]


def test_a_copy_is_its_own() -> None:
    made = history()
    made.epoch = 3
    copy = made.copy(6)
    copy.append([70])
    assert (copy.tokens, copy.calls, copy.epoch) == ([0, 1, 2, 3, 4, 5, 70], [4, 2, 1], 3)
    assert made.tokens == list(range(10))


def test_nothing_is_no_call() -> None:
    made = RowHistory()
    made.append([])
    assert made.calls == [] and made.pieces(0) == []
