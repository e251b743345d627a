"""What the tests of this folder share by name."""

from __future__ import annotations

from conftest import CAPACITY, Case

__all__ = ["CAPACITY", "Case"]
