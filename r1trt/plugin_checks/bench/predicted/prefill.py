"""Prefill: the full branch by `wgmma`, the block branch by `mma.sync` or `wgmma`. BF16, heads of 128.

Legend: N tokens, H query heads, G key/value heads, d head size. A step is a tile's rows and its next keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from r1trt.plugin_checks.bench.predicted import instructions
from r1trt.plugin_checks.bench.predicted.instructions import (
    LIST_ROWS,
    MMA_PREFILL,
    STORE_ROWS,
    STORE_TILE,
    Loop,
)
from r1trt.plugin_checks.bench.predicted.kernel_time import (
    KernelTime,
    Prediction,
    Work,
    at_once,
    ceil_div,
    kernel_time,
)
from r1trt.plugin_checks.bench.predicted.machine import (
    L2_BYTES,
    LAUNCH_US,
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

MMA_ROWS, MMA_KEYS, MMA_WARPS, MMA_PER_SM = 64, 64, 4, 2
CANDIDATES = 256  # rows that a block by mma.sync looks through


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


def _wgmma_work(steps: list[int], loop: Loop, *, stays: bool, empty: int = 0) -> Work:
    """Tiles in the order in which they are taken.

    Args:
        steps: Of each tile.
        loop: A step's instructions.
        stays: Whether blocks stay, and the next tile is loaded while one is computed.
        empty: Blocks that only find out that they have nothing to do.
    """
    cycles = step_cycles(loop)
    l2 = STEP_BYTES / L2_BYTES
    # The first softmax has no products beside it, nor has what is stored.
    ends = (loop.instructions + loop.masking + STORE_TILE) * CONSUMER_WARPS / SCHEDULERS
    starts = 0 if stays else 2 * MEMORY_CYCLES  # lam, then queries and keys
    chains = [count * max(*cycles.values(), l2) + ends + starts for count in steps]
    total = sum(steps)
    return Work(
        chains=[*chains, *[MEMORY_CYCLES] * empty],
        cycles={part: total * each for part, each in cycles.items()},
        l2_bytes=total * STEP_BYTES + 2 * len(steps) * TILE_BYTES,
    )


def full_steps(p: Prefill) -> list[int]:
    """Of each tile of 128 tokens and a head: those of late tokens first."""
    tiles = ceil_div(p.tokens, ROWS)
    return [tile + 1 for tile in reversed(range(tiles)) for _ in range(p.full_heads * p.batch)]


def full_branch(machine: Machine, p: Prefill, *, unproven: bool) -> KernelTime:
    """`hopper_attention`, or with `unproven` `hopper_full`, which takes tiles with weight alone."""
    loop = instructions.FULL_TURNS if unproven else instructions.FULL_PROVEN
    tiles = ceil_div(p.tokens, ROWS) * p.batch * p.heads
    steps = full_steps(p)
    # A block without weight reads lam and ends; of those that stay, all look through the votes.
    empty = max(0, SMS - len(steps)) if unproven else tiles - len(steps)
    work = _wgmma_work(steps, loop, stays=unproven, empty=empty)
    memory = p.bytes_of(p.full_heads)
    if p.full_heads + p.block_heads > p.heads:  # what the block branch left in y is read
        memory += 2.0 * p.batch * p.tokens * HEAD_DIM * p.heads
    return kernel_time(
        "hopper_full" if unproven else "hopper_attention", _with_memory(work, memory), machine,
        clock=machine.products_clock, launch=0.0 if unproven and p.block_heads else LAUNCH_US,
    )  # fmt: skip


def _with_memory(work: Work, memory: float) -> Work:
    return Work(
        chains=work.chains, per_sm=work.per_sm, cycles=work.cycles, l2_bytes=work.l2_bytes,
        memory_bytes=memory,
    )  # fmt: skip


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


def block_branch_wgmma(machine: Machine, p: Prefill) -> KernelTime:
    """`hopper_block`."""
    work = _wgmma_work(block_steps(p), instructions.BLOCK_BRANCH, stays=True)
    memory = p.bytes_of(p.block_heads)
    return kernel_time("hopper_block", _with_memory(work, memory), machine, clock=machine.products_clock)


def tiles_of_chunks(p: Prefill) -> list[list[int]]:
    """Of each block by mma.sync, the steps of each of its tiles; empty where it has no row.

    A block looks through 256 rows, 64 tokens of a group of four; those of the block branch fill its tiles.
    """
    tokens_of_chunk = CANDIDATES // p.group
    chunks = []
    for first in reversed(range(0, p.tokens, tokens_of_chunk)):
        for kv_head in range(p.kv_heads):
            begin = kv_head * p.group
            rows = sum(head >= p.heads - p.block_heads for head in range(begin, begin + p.group))
            end = min(first + tokens_of_chunk, p.tokens)
            chunks += [_tiles(first, end, rows)] * p.batch
    return chunks


def _tiles(first: int, end: int, rows_of_token: int) -> list[int]:
    if rows_of_token == 0:
        return []
    tokens = max(1, MMA_ROWS // rows_of_token)
    steps = []
    for begin in range(first, end, tokens):
        last = min(begin + tokens, end) - 1
        # A block's first query sees its own first token as one of those, too.
        firsts = last // BLOCK + (1 if last // BLOCK * BLOCK >= begin else 0)
        steps.append(ceil_div(firsts + last + 1 - begin // BLOCK * BLOCK, MMA_KEYS))
    return steps


def block_branch_mma(machine: Machine, p: Prefill) -> KernelTime:
    """`hlaAttentionKernel` where the full branch is elsewhere."""
    chunks = tiles_of_chunks(p)
    step_bytes = 2 * MMA_KEYS * HEAD_DIM * 2
    cycles = {
        "products": MMA_PREFILL.mma_cycles(MMA_WARPS),
        "softmax": MMA_PREFILL.exponential_cycles(MMA_WARPS),
        "issue": MMA_PREFILL.issue_cycles(MMA_WARPS),
        "shared memory": MMA_PREFILL.shared_cycles(MMA_WARPS, step_bytes),
    }
    beside = at_once(len(chunks), MMA_PER_SM)
    step = max(MMA_PREFILL.chain_cycles(MMA_WARPS), MEMORY_CYCLES, beside * max(cycles.values()))
    # A tile's rows, then its queries and keys, then its output; and once a block lam and the list.
    tile = MEMORY_CYCLES + (MMA_PREFILL.masking + STORE_ROWS) * MMA_WARPS / SCHEDULERS
    start = MEMORY_CYCLES + LIST_ROWS * MMA_WARPS / SCHEDULERS
    total, tiles = sum(map(sum, chunks)), sum(map(len, chunks))
    work = Work(
        chains=[start + sum(count * step + tile for count in steps) for steps in chunks],
        per_sm=MMA_PER_SM,
        cycles={part: total * each for part, each in cycles.items()},
        memory_bytes=p.bytes_of(p.block_heads),
        l2_bytes=total * step_bytes + 2 * tiles * MMA_ROWS * HEAD_DIM * 2,
    )
    return kernel_time("hla_attention", work, machine)


def prefill(machine: Machine, p: Prefill, *, unproven: bool) -> Prediction:
    """Both branches, the block branch first."""
    block = block_branch_wgmma(machine, p) if unproven else block_branch_mma(machine, p)
    return Prediction(kernels=(block, full_branch(machine, p, unproven=unproven)))
