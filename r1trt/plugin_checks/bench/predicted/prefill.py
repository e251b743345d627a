"""Prefill: both branches by `wgmma`. BF16, heads of 128.

Legend: N tokens, H query heads, G key/value heads, d head size. A step is a tile's rows and its next keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from r1trt.plugin_checks.bench.predicted import instructions
from r1trt.plugin_checks.bench.predicted.instructions import (
    Loop,
)
from r1trt.plugin_checks.bench.predicted.kernel_time import (
    KernelTime,
    Prediction,
    Work,
    ceil_div,
    kernel_time,
)
from r1trt.plugin_checks.bench.predicted.machine import (
    L2_BYTES,
    MEMORY_CYCLES,
    PRODUCTS_16_BITS,
    SCHEDULERS,
    SHARED_BYTES,
    SMS,
    Machine,
)

HEAD_DIM, BLOCK = 128, 32
ROWS, KEYS, CONSUMER_WARPS = 128, 128, 8  # of a tile by wgmma; two warpgroups have 64 rows each
STEP_BYTES = 2 * KEYS * HEAD_DIM * 2  # keys and values
TILE_BYTES = ROWS * HEAD_DIM * 2  # queries, and as many of y


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """A prompt.

    Attributes:
        tokens: N, a multiple of `BLOCK`.
        batch: Rows of the batch.
        heads: H.
        kv_heads: G.
        full_heads: Heads with weight in the full branch, the first ones.
        block_heads: Heads with weight in the block branch, the last ones.
    """

    tokens: int
    batch: int
    heads: int
    kv_heads: int
    full_heads: int
    block_heads: int

    @property
    def group(self) -> int:
        """Query heads of a key/value head."""
        return self.heads // self.kv_heads

    def bytes_of(self, heads: int) -> float:
        """Queries and y of some heads, and keys and values of theirs, once."""
        kv_heads = ceil_div(heads, self.group)
        return 2.0 * self.batch * self.tokens * HEAD_DIM * 2 * (heads + kv_heads)


def step_cycles(loop: Loop) -> dict[str, float]:
    """What 128 rows and 128 keys keep busy on an SM, by wgmma."""
    steps = HEAD_DIM // 16 * 2  # of both warpgroups
    read = steps * (64 + KEYS) * 32 + steps * HEAD_DIM * 32  # q and k; v, with the weights in registers
    return {
        "products": 2 * ROWS * KEYS * HEAD_DIM / PRODUCTS_16_BITS,
        "softmax": loop.exponential_cycles(CONSUMER_WARPS),
        "issue": loop.issue_cycles(CONSUMER_WARPS),
        "shared memory": (read + STEP_BYTES) / SHARED_BYTES,
    }


def _work(steps: list[int], loop: Loop, memory: float) -> Work:
    """Tiles in the order in which blocks that stay take them; the next one is loaded while one is computed.

    Args:
        steps: Of each tile.
        loop: A step's instructions.
        memory: Bytes.
    """
    cycles = step_cycles(loop)
    # The first softmax has no products beside it, nor has what is stored; some keys are hidden once a tile.
    ends = (loop.instructions + loop.masking + loop.storing) * CONSUMER_WARPS / SCHEDULERS
    chains = [count * max(*cycles.values(), STEP_BYTES / L2_BYTES) + ends for count in steps]
    total = sum(steps)
    return Work(
        chains=[*chains, *[2.0 * MEMORY_CYCLES] * max(0, SMS - len(steps))],  # all blocks look for tiles
        cycles={part: total * each for part, each in cycles.items()},
        memory_bytes=memory,
        l2_bytes=total * STEP_BYTES + 2 * len(steps) * TILE_BYTES,
    )


def full_steps(p: Prefill) -> list[int]:
    """Of each tile of 128 tokens and a head: those of late tokens first."""
    tiles = ceil_div(p.tokens, ROWS)
    return [tile + 1 for tile in reversed(range(tiles)) for _ in range(p.full_heads * p.batch)]


def full_branch(machine: Machine, p: Prefill) -> KernelTime:
    """`hopper_full`, which takes tiles with weight alone, and starts while the block branch ends."""
    memory = p.bytes_of(p.full_heads)
    if p.full_heads + p.block_heads > p.heads:  # what the block branch left in y is read
        memory += 2.0 * p.batch * p.tokens * HEAD_DIM * p.heads
    work = _work(full_steps(p), instructions.FULL_BRANCH, memory)
    return kernel_time("hopper_full", work, machine, clock=machine.products_clock, launch=0.0)


def block_steps(p: Prefill) -> list[int]:
    """Of each tile of `hopper_block`: 32 tokens of four heads, boxes of 32 first tokens and of own keys."""
    heads = 1
    while p.group % (2 * heads) == 0 and ROWS // (2 * heads) >= BLOCK:
        heads *= 2
    tokens = ROWS // heads
    of_tokens = ceil_div(p.tokens + min(BLOCK, tokens) - 1, ROWS) * heads
    needed = ceil_div(p.block_heads, heads) * p.batch
    steps = []
    for tile in reversed(range(of_tokens)):
        last = min((tile + 1) * tokens, p.tokens) - 1
        if last < tile * tokens:
            continue
        boxes = ceil_div(last // BLOCK, 32) + ceil_div(last + 1 - tile * tokens // BLOCK * BLOCK, 32)
        steps += [ceil_div(boxes, 4)] * needed
    return steps


def block_branch(machine: Machine, p: Prefill) -> KernelTime:
    """`hopper_block`."""
    work = _work(block_steps(p), instructions.BLOCK_BRANCH, p.bytes_of(p.block_heads))
    return kernel_time("hopper_block", work, machine, clock=machine.products_clock)


def prefill(machine: Machine, p: Prefill) -> Prediction:
    """Both branches, the block branch first."""
    return Prediction(kernels=(block_branch(machine, p), full_branch(machine, p)))
