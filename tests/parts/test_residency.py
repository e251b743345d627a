"""Which parts stay in memory, and which take turns."""

from __future__ import annotations

import threading

import pytest

from r1trt.errors import UnavailableError
from r1trt.runtime.residency import Turns, residency

SIZES = [40, 30, 30, 50]


@pytest.mark.parametrize(
    ("room", "staying", "at_a_time", "most"),
    [
        (150, 4, 2, 150),
        (149, 1, 2, 120),
        (120, 1, 2, 120),
        (119, 0, 2, 90),
        (90, 0, 2, 90),
        (89, 0, 1, 50),
        (50, 0, 1, 50),
    ],
)
def test_as_many_as_fit(room: int, staying: int, at_a_time: int, most: int) -> None:
    found = residency(SIZES, room)
    assert found.staying == set(range(staying)) and found.at_a_time == at_a_time
    assert found.bytes(SIZES) == most <= room


def test_none_fits() -> None:
    with pytest.raises(UnavailableError, match="does not fit") as error:
        residency(SIZES, 49)
    assert error.value.details["where"] == "part 3"


class Part:
    """Counts what is loaded, at most, with others on the same shelf."""

    loaded = 0
    most = 0
    lock = threading.Lock()

    def __init__(self) -> None:
        self.is_there = False

    def load(self) -> None:
        with Part.lock:
            if not self.is_there:
                self.is_there = True
                Part.loaded += 1
                Part.most = max(Part.most, Part.loaded)

    def unload(self) -> None:
        with Part.lock:
            Part.loaded -= self.is_there
            self.is_there = False


@pytest.mark.parametrize(("room", "most"), [(150, 4), (120, 3), (90, 2), (50, 1)])
def test_no_more_than_planned_are_loaded(room: int, most: int) -> None:
    Part.loaded = Part.most = 0
    parts = [Part() for _ in SIZES]
    turns = Turns(parts, residency(SIZES, room))
    for _ in range(3):
        for index, part in enumerate(parts):
            with turns.taken(index):
                assert part.is_there
    turns.close()
    assert Part.most == most
