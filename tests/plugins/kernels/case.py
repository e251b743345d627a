"""What a case is: the sizes and attributes of one call, frozen, and a name that says how it differs."""

from __future__ import annotations

import zlib
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


def assert_distinct(cases: list[Case]) -> None:
    """Two cases of one name would hide one another."""
    names = [str(case) for case in cases]
    doubled = {name for name in names if names.count(name) > 1}
    assert not doubled, f"cases that are there twice: {sorted(doubled)}"
