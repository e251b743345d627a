"""Strict YAML with the line of every key: no aliases, no depth, no repeated keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from r1trt.errors import PlanError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Lines = dict[tuple[str, ...], int]
_MAX_DEPTH = 8
# A layer of a plan has some twenty; each takes a kilobyte while it is read.
_MAX_VALUES = 400_000
_MAX_SCALAR = 2_000  # YAML reads 1:1:1 as a number, digit by digit


def parse(text: str, where: object) -> tuple[object, Lines]:
    """Read strict YAML.

    Args:
        text: What a file holds.
        where: What messages call it.

    Returns:
        The document, and the line of each key by the path of keys that leads to it.

    Raises:
        PlanError: It is not YAML, nests too deeply, uses aliases, or repeats keys.
    """
    try:
        _require_plain(text)
        loader = _Loader(text)
        root = loader.get_single_node()
        document = None if root is None else loader.construct_document(root)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise PlanError("The precision plan is not YAML.", where=where, found=error) from error
    lines: Lines = {}
    repeated = list(_walk(root, (), lines))
    if repeated:
        raise PlanError("The precision plan repeats keys.", where=where, found="; ".join(repeated))
    return document, lines


def _require_plain(text: str) -> None:
    """Raises ValueError for what a plan never holds, and what costs a parser its stack or all memory."""
    depth = values = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError(f"{_line_of(event)}: anchors and aliases are not read")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        values += isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if values > _MAX_VALUES:
            raise ValueError(f"{_line_of(event)}: more than {_MAX_VALUES} values")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > _MAX_SCALAR:
            raise ValueError(f"{_line_of(event)}: a value of more than {_MAX_SCALAR} characters")
        if depth > _MAX_DEPTH:
            raise ValueError(f"{_line_of(event)}: nested deeper than {_MAX_DEPTH} levels")


def _line_of(event: yaml.Event) -> str:
    return "a line" if event.start_mark is None else f"line {event.start_mark.line + 1}"


def _walk(node: Any, path: tuple[str, ...], lines: Lines) -> Iterator[str]:
    """Record the line of every key; yields repeated keys, of which YAML itself would keep the last."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        child = (*path, str(key.value))
        if child in lines:
            yield f"line {key.start_mark.line + 1}: '{'.'.join(child)}' (first on line {lines[child]})"
        lines[child] = key.start_mark.line + 1
        yield from _walk(value, child, lines)
