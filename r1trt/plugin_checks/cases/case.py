"""What a case is: the sizes and attributes of one call, frozen, and a name that says how it differs."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call of an operator; its tensors follow from it."""

    def __str__(self) -> str:
        """What differs from the default case: the name that tests and planted defects know it by."""
        changed = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {
            field.name: changed[field.name] for field in fields(self) if changed[field.name] != field.default
        }
        parts = [f"{name}={value}".replace(" ", "") for name, value in changed.items()]
        return ",".join(parts) or "default"

    def generator(self) -> np.random.Generator:
        """Random numbers of this case's own, the same every time."""
        return np.random.default_rng(zlib.crc32(str(self).encode()))


class CheckFailure(AssertionError):
    """A kernel's output is not what its definition says; the message names the case."""


def require(condition: bool | np.bool, message: str) -> None:
    """Fails a check, also where Python runs without assertions.

    Raises:
        CheckFailure: The condition does not hold.
    """
    if not condition:
        raise CheckFailure(message)


def require_distinct(cases: Sequence[Case]) -> None:
    """Refuses cases of one name, which would hide one another."""
    names = [str(case) for case in cases]
    doubled = {name for name in names if names.count(name) > 1}
    require(not doubled, f"cases that are there twice: {sorted(doubled)}")
