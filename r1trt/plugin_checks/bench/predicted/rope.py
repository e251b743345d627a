"""The rotary embedding.

Legend: T tokens, H query heads, G key heads, d head size.
"""

from __future__ import annotations

from r1trt.plugin_checks.bench.predicted import instructions
from r1trt.plugin_checks.bench.predicted.kernel_time import Prediction, Work, ceil_div, kernel_time
from r1trt.plugin_checks.bench.predicted.machine import L2_CYCLES, MEMORY_CYCLES, SCHEDULERS, WARP, Machine

THREADS, PER_SM = 256, 8
ENOUGH_TOKENS = 512  # from which a token's heads are one block's
TABLE_INSTRUCTIONS = 118  # of a warp: cosines and sines of a position


def parts_of_token(tokens: int, heads: int, head_dim: int) -> int:
    """Blocks that share a token's heads."""
    return 1 if tokens >= ENOUGH_TOKENS else min(64, ceil_div(heads * (head_dim // 8), THREADS))


def rope(machine: Machine, *, tokens: int, heads: int, kv_heads: int, head_dim: int, hot: bool) -> Prediction:
    """BF16, every element in a pair; what is hot is read from L2."""
    every = heads + kv_heads
    parts = parts_of_token(tokens, every, head_dim)
    rounds = ceil_div(every * (head_dim // 16), parts * THREADS)
    load = L2_CYCLES if hot else MEMORY_CYCLES
    # Of all warps that have heads, and of those that have a position's pairs.
    of_heads = ceil_div(every * (head_dim // 16), WARP) * instructions.ROTATE
    of_table = parts * ceil_div(head_dim // 2, WARP) * TABLE_INSTRUCTIONS
    issue = (of_heads + of_table) / SCHEDULERS / parts
    moved = 4.0 * tokens * every * head_dim
    work = Work(
        chains=[(1 + rounds) * load + issue] * (tokens * parts), per_sm=PER_SM,
        cycles={"issue": issue * tokens * parts}, memory_bytes=0.0 if hot else moved, l2_bytes=moved,
    )  # fmt: skip
    return Prediction(kernels=(kernel_time("dynamic_rope", work, machine),))
