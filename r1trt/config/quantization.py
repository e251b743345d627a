"""Weights in FP8 with block scales, as DeepSeek publishes them, and as compressed-tensors spells the same.

A weight [N,K] is E4M3, and beside it lie scales [ceil(N/128),ceil(K/128)]: an element is its FP8 value times
the scale of its block. Blocks at the edges are ragged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SCALE_BLOCK = 128
"""Rows, and columns, that share one scale."""
SCALE_SUFFIXES = ("_scale_inv", "_scale")
"""What stands behind a weight's name in that of its scales: DeepSeek's, and that of compressed-tensors."""
PATTERN = "re:"


@dataclass(frozen=True, kw_only=True)
class BlockFp8Config:
    """Which projections of a checkpoint are FP8 with block scales.

    Attributes:
        left_out: Beginnings or endings of the names of modules whose weights are not FP8.
        ignored: Their whole names, or `re:` and a pattern for the beginning of one, as compressed-tensors has
            them.
        scale_suffix: Of `SCALE_SUFFIXES`.
    """

    left_out: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    scale_suffix: str = SCALE_SUFFIXES[0]

    def leaves_out(self, module: str) -> bool:
        """Whether the weights of a module have another type."""
        ends = any(module.startswith(name) or module.endswith(name) for name in self.left_out)
        return ends or any(_is_named(module, name) for name in self.ignored)


def _is_named(module: str, name: str) -> bool:
    if name.startswith(PATTERN):
        return re.match(name.removeprefix(PATTERN), module) is not None
    return module == name


def scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the scales of a weight of this shape."""
    return tuple(-(-size // SCALE_BLOCK) for size in shape)
