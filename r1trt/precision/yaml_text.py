"""Strict YAML with the line of every key: no aliases, no depth, no repeated keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from r1trt.errors import PlanError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Lines = dict[tuple[str, ...], int]
# Scales of a large model, one a row, are some ten million characters.
_MAX_TEXT = 1 << 27
_MAX_DEPTH = 8


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
    if len(text) > _MAX_TEXT:
        raise ValueError(f"{len(text)} characters; at most {_MAX_TEXT} expected")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError(f"{_line_of(event)}: anchors and aliases are not read")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
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
