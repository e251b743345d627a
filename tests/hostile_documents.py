"""Documents that a hand, a hostile program or a damaged disk has changed in one place."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

# One value of every sort that a hand, a hostile program or a damaged disk puts into a key's place.
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1 << 31, 1 << 70, -(1 << 70), 10**4000, 0.5, float("nan"), float("inf"),
    "", "x", " ", "a\0b", "../../etc/passwd", "/etc/passwd", "..", ".", "\ud800", "x" * 300, "\n", "SM89",
    [], [1], [None], ["x"], [[]], [{}], {}, {"file": 5}, {"": ""}, {"name": "x", "bytes": -1},
    [{"file": "x" * 300, "bytes": 1}], [{"file": "../x", "sm": 89}], [{"file": "x", "sm": "89"}],
    {"base_directory": "a\0b", "files": []}, {"base_directory": ["."], "files": {}},
)  # fmt: skip


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = {"x": value} if level % 2 else [value]
    return value


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values inside of a document."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*at, key)
        if isinstance(item, (dict, list)):
            yield from places(item, (*at, key))


def changed(document: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copied = copy.deepcopy(document)
    inside: Any = copied
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return copied


def removed(document: dict[str, Any], place: tuple[Any, ...]) -> dict[str, Any]:
    copied = copy.deepcopy(document)
    inside: Any = copied
    for key in place[:-1]:
        inside = inside[key]
    del inside[place[-1]]
    return copied


def mutants(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The document without each of its values, and with a hostile value in the place of each."""
    found = [removed(document, place) for place in places(document)]
    hostile = (*HOSTILE, nested(200))
    return found + [changed(document, place, value) for place in places(document) for value in hostile]
