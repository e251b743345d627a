"""Weights in FP8 with block scales, as DeepSeek publishes them.

A weight [N,K] is E4M3, and beside it lie FP32 scales [ceil(N/128),ceil(K/128)]: an element is its FP8 value
times the scale of its block. Blocks at the edges are ragged.
"""

from __future__ import annotations

from dataclasses import dataclass

SCALE_BLOCK = 128
"""Rows, and columns, that share one scale."""


@dataclass(frozen=True, kw_only=True)
class BlockFp8Config:
    """Which projections of a checkpoint are FP8 with block scales.

    Attributes:
        left_out: Beginnings or endings of the names of modules whose weights are not FP8.
    """

    left_out: tuple[str, ...] = ()

    def leaves_out(self, module: str) -> bool:
        """Whether the weights of a module have another type."""
        return any(module.startswith(name) or module.endswith(name) for name in self.left_out)


def scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the scales of a weight of this shape."""
    return tuple(-(-size // SCALE_BLOCK) for size in shape)
