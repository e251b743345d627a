"""The engine that the scheduler's tests run on."""

from __future__ import annotations

from cpu_engines import tiny_engine

__all__ = ["tiny_engine"]
