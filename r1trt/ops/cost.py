"""What a layer costs: multiply-adds and bytes, by type, as a function of a call's sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from r1trt.data_types import DATA_TYPES
from r1trt.errors import ConfigError

Dims = tuple[int | str, ...]
BATCH_AXIS, TOKEN_AXIS = "B", "S"


@dataclass(frozen=True, kw_only=True)
class CallSize:
    """Sizes of one call; every sequence of the batch is alike.

    Attributes:
        batch: Sequences.
        tokens: Tokens of this call in each sequence.
        past: Tokens that stand in front of them in the cache.
    """

    batch: int
    tokens: int
    past: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.tokens < 1 or self.past < 0:
            raise ConfigError(
                "A call has sequences and tokens.",
                found=(self.batch, self.tokens, self.past),
                expected="batch and tokens of at least 1, past of at least 0",
            )

    def elements(self, dims: Dims) -> int:
        """Elements of a value of this shape; "B" and "S" are the call's batch and tokens.

        Raises:
            ConfigError: Another name stands for a size.
        """
        sizes = {BATCH_AXIS: self.batch, TOKEN_AXIS: self.tokens}
        unknown = [size for size in dims if isinstance(size, str) and size not in sizes]
        if unknown:
            raise ConfigError("A shape has an axis that no call gives.", found=dims, expected=list(sizes))
        return math.prod(sizes[size] if isinstance(size, str) else size for size in dims)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Work of one layer in one call.

    Attributes:
        macs: Multiply-adds by the type of their operands; a multiplication or addition alone counts as one,
            functions such as exp and the comparisons of a selection as none.
        read_bytes: Bytes read once by the type of their elements: activations, cache and weights.
        written_bytes: Bytes written, likewise.
    """

    macs: Mapping[str, int]
    read_bytes: Mapping[str, int]
    written_bytes: Mapping[str, int]

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            macs=_sum(self.macs, other.macs),
            read_bytes=_sum(self.read_bytes, other.read_bytes),
            written_bytes=_sum(self.written_bytes, other.written_bytes),
        )

    def times(self, count: int) -> Cost:
        """The work of as many equal layers, or calls."""
        return Cost(
            macs={name: count * number for name, number in self.macs.items()},
            read_bytes={name: count * number for name, number in self.read_bytes.items()},
            written_bytes={name: count * number for name, number in self.written_bytes.items()},
        )

    @property
    def moved_bytes(self) -> int:
        """All bytes, read or written."""
        return sum(self.read_bytes.values()) + sum(self.written_bytes.values())


NO_COST = Cost(macs={}, read_bytes={}, written_bytes={})


def cost_of(
    *,
    macs: Iterable[tuple[str | None, int]],
    reads: Iterable[tuple[str | None, int]],
    writes: Iterable[tuple[str | None, int]],
) -> Cost:
    """Add up a cost from (type, count) pairs: multiply-adds, and elements that are read and written."""
    return Cost(macs=_totals(macs), read_bytes=_bytes(reads), written_bytes=_bytes(writes))


def _totals(pairs: Iterable[tuple[str | None, int]]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for name, count in pairs:
        if name is not None and count:
            totals[name] = totals.get(name, 0) + count
    return totals


def _bytes(pairs: Iterable[tuple[str | None, int]]) -> dict[str, int]:
    return {name: count * DATA_TYPES[name].bits // 8 for name, count in _totals(pairs).items()}


def _sum(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return _totals([*first.items(), *second.items()])
