"""Values of a request, read one after the other; what is null was not given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from r1trt.openai.errors import ApiError, invalid

_SHOWN = 60


class Values:
    """Takes each value once; what is left at the end is not known.

    Args:
        body: The request, as JSON has it.
    """

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._left = {name: value for name, value in body.items() if value is not None}

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str) -> Any:
        """Returns a value of any type; None where it is not given."""
        return self._left.pop(name, None)

    def text(self, name: str) -> str | None:
        """Returns a text. Raises ApiError for anything else."""
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise _wrong_type(name, value, "a string")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Returns true or false. Raises ApiError for anything else."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise _wrong_type(name, value, "true or false")
        return default if value is None else bool(value)

    def integer(self, name: str, least: int, most: int) -> int | None:
        """Returns an integer in a range. Raises ApiError for anything else."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong_type(name, value, "an integer")
        _require_range(name, value, least, most)
        return value

    def number(self, name: str, least: float, most: float) -> float | None:
        """Returns a number in a range. Raises ApiError for anything else."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong_type(name, value, "a number")
        _require_range(name, value, least, most)
        return float(value)

    def texts(self, name: str) -> list[str]:
        """Returns texts, of which one may stand alone. Raises ApiError for anything else."""
        value = self.take(name)
        texts = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise _wrong_type(name, value, "a string, or a list of strings")
        return texts

    def require_only(self, name: str, *allowed: object) -> None:
        """Takes a value that asks for what is not done here, unless it asks for nothing.

        Raises:
            ApiError: It is none of those allowed.
        """
        value = self.take(name)
        if value is not None and not any(type(value) is type(one) and value == one for one in allowed):
            expected = f"; {' or '.join(map(shown, allowed))} is" if allowed else ""
            raise invalid(f"{name} {shown(value)} is not supported{expected}.", name, "unsupported_value")

    def require_none_left(self) -> None:
        """Raises ApiError for values that nothing here knows."""
        if self._left:
            first = next(iter(self._left))
            names = ", ".join(shown(name) for name in self._left)
            raise invalid(f"Unrecognized request arguments: {names}.", first[:_SHOWN], "unknown_parameter")


def shown(value: object) -> str:
    """A value as JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _wrong_type(name: str, value: object, expected: str) -> ApiError:
    return invalid(
        f"{name} is of the wrong type: {shown(value)}; {expected} is expected.", name, "invalid_type"
    )


def _require_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise invalid(
            f"{name} is out of range: {shown(value)}; {least} to {most} are taken.", name, "invalid_value"
        )
