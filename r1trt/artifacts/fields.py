"""Typed values out of JSON: a dataclass is the schema, its annotations are the checks.

Understood are str, bool, int, float, Any, `X | None`, Literal, `tuple[X, ...]`, `Mapping[str, X]`, other
dataclasses, and `Annotated[X, Check]`. A key that is missing takes the field's default; a key that no field
has is left to the version that wrote it.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import types
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)


class Schema(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


T = TypeVar("T", bound=Schema)

_NAME_BYTES = 255
_PATH_BYTES = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """What a value must be beyond its type.

    Attributes:
        expected: For the error.
        holds: Whether a value is that.
    """

    expected: str
    holds: Callable[[Any], bool]


class InvalidFieldsError(ValueError):
    """A document does not fit its dataclass.

    Args:
        problems: One line for each field: its key, what was found and what was expected.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def from_json(schema: type[T], document: object, at: str = "") -> T:
    """Reads a document into a dataclass.

    Args:
        schema: The dataclass.
        document: What `json.loads` returned.
        at: Key of the document in a larger one.

    Raises:
        InvalidFieldsError: Lists every field that is missing or wrong.
    """
    if not isinstance(document, dict):
        raise _invalid(at, document, "an object")
    values, problems = {}, []
    hints = get_type_hints(schema, include_extras=True)
    for field in dataclasses.fields(schema):
        key = f"{at}.{field.name}" if at else field.name
        if field.name not in document:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                problems.append(f"{key}: missing")
            continue
        try:
            values[field.name] = _value(hints[field.name], document[field.name], key)
        except InvalidFieldsError as error:
            problems += error.problems
    if problems:
        raise InvalidFieldsError(problems)
    try:
        return schema(**values)
    except ValueError as error:  # what the dataclass says of its fields together
        raise InvalidFieldsError([f"{at}: {error}" if at else str(error)]) from error


def _value(kind: Any, value: object, at: str) -> Any:
    if kind is Any:
        return value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return from_json(kind, value, at)
    reader = _READERS.get(get_origin(kind))
    return _scalar(kind, value, at) if reader is None else reader(get_args(kind), value, at)


def _scalar(kind: Any, value: object, at: str) -> Any:
    # NOTES: isinstance would take a bool for an int.
    if kind is float and type(value) is int and abs(value) <= 1 << 53:
        return float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise _invalid(at, value, _NAMES[kind])
    return value


def _annotated(arguments: tuple[Any, ...], value: object, at: str) -> Any:
    kind, *checks = arguments
    result = _value(kind, value, at)
    for check in checks:
        if not check.holds(result):
            raise _invalid(at, value, check.expected)
    return result


def _literal(arguments: tuple[Any, ...], value: object, at: str) -> Any:
    if not isinstance(value, str) or value not in arguments:
        raise _invalid(at, value, " | ".join(map(str, arguments)))
    return value


def _optional(arguments: tuple[Any, ...], value: object, at: str) -> Any:
    (kind,) = (argument for argument in arguments if argument is not type(None))
    return None if value is None else _value(kind, value, at)


def _tuple(arguments: tuple[Any, ...], value: object, at: str) -> Any:
    if not isinstance(value, list):
        raise _invalid(at, value, "a list")
    return tuple(_value(arguments[0], item, f"{at}[{index}]") for index, item in enumerate(value))


def _mapping(arguments: tuple[Any, ...], value: object, at: str) -> Any:
    if not isinstance(value, dict):
        raise _invalid(at, value, "an object")
    return {key: _value(arguments[1], item, f"{at}.{key}") for key, item in value.items()}


_NAMES = {str: "text", bool: "true or false", int: "an integer", float: "a finite number"}
_READERS: Mapping[Any, Callable[[tuple[Any, ...], object, str], Any]] = {
    Annotated: _annotated,
    Literal: _literal,
    Union: _optional,
    types.UnionType: _optional,
    tuple: _tuple,
    Mapping: _mapping,
}


def _invalid(at: str, value: object, expected: str) -> InvalidFieldsError:
    return InvalidFieldsError([f"{at}: {ascii(value)[:80]}, expected {expected}"])


def _is_file_name(text: str) -> bool:
    fits = 0 < len(os.fsencode(text)) <= _NAME_BYTES
    return fits and text not in (".", "..") and "/" not in text and "\0" not in text


def _is_relative(text: str) -> bool:
    path = PurePosixPath(text)
    return (
        len(text) <= _PATH_BYTES
        and not path.is_absolute()
        and bool(path.parts)
        and all(map(_is_file_name, path.parts))
    )


def _is_sha256(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", text) is not None


def _is_path(text: str) -> bool:
    path = PurePosixPath(text)
    names = path.relative_to(path.anchor).parts
    return len(text) <= _PATH_BYTES and all(part == ".." or _is_file_name(part) for part in names)


FileName = Annotated[str, Check(expected="the name of a file in this directory", holds=_is_file_name)]
RelativePath = Annotated[str, Check(expected="a path below this directory", holds=_is_relative)]
PathText = Annotated[str, Check(expected="a path", holds=_is_path)]
Count = Annotated[int, Check(expected="an integer from 1 to 2^31 - 1", holds=lambda n: 1 <= n < 1 << 31)]
Size = Annotated[int, Check(expected="a size in bytes", holds=lambda n: 0 <= n < 1 << 63)]
Sha256 = Annotated[str, Check(expected="a SHA-256 in hex", holds=_is_sha256)]
TimeNs = Annotated[int, Check(expected="a time in nanoseconds", holds=lambda n: -(1 << 63) <= n < 1 << 63)]
Sm = Annotated[int, Check(expected="a compute capability as in 89", holds=lambda n: 1 <= n < 10_000)]
