"""Typed access to a config.json: every refusal names the key, what was found, and the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from r1trt.config.checks import MAX_POSITIONS
from r1trt.errors import ConfigError


class Keys:
    """A config.json dict.

    A key that is absent and one that is null mean the same where a family does not say otherwise.

    Args:
        raw: The parsed file.
        where: Its path, for messages.
    """

    def __init__(self, raw: Mapping[str, Any], where: Path) -> None:
        self.raw = raw
        self.where = where
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keeps what a user should know of how the keys were read."""
        if text not in self.notes:
            self.notes.append(text)

    def refuse(self, message: str, *, found: object, expected: object, fix: str | None = None) -> NoReturn:
        """Raises ConfigError with the file's name."""
        raise ConfigError(message, where=self.where, found=found, expected=expected, fix=fix)

    def has(self, key: str) -> bool:
        """Says whether a key has a value."""
        return self.raw.get(key) is not None

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer; without a default the key is required."""
        value = self._value(key, default, "an integer")
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(f"config key '{key}' is not an integer", found=repr(value), expected="an integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number, as a float; without a default the key is required."""
        value = self._value(key, default, "a number")
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(f"config key '{key}' is not a number", found=repr(value), expected="a number")
        if isinstance(value, int) and abs(value) > MAX_POSITIONS:
            found, limit = repr(value)[:40], f"a number of at most {MAX_POSITIONS}"
            self.refuse(f"config key '{key}' is far too large", found=found, expected=limit)
        return float(value)

    def boolean(self, key: str, default: bool | None = None) -> bool:
        """A boolean; without a default the key is required."""
        value = self._value(key, default, "true | false")
        if not isinstance(value, bool):
            self.refuse(f"config key '{key}' is not a boolean", found=repr(value), expected="true | false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string; without a default the key is required."""
        value = self._value(key, default, "a string")
        if not isinstance(value, str):
            self.refuse(f"config key '{key}' is not a string", found=repr(value), expected="a string")
        return value

    def _value(self, key: str, default: object, expected: str) -> object:
        value = self.raw.get(key)
        if value is not None:
            return value
        if default is None:
            self.refuse(f"config lacks '{key}'", found="no value", expected=expected)
        return default
