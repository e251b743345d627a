"""Decoding against a cache: heads of 128, and latents of 576. BF16, one token a row.

Legend: B batch, H query heads, G key/value heads, L keys in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from r1trt.plugin_checks.bench.predicted import instructions
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
    L2_CYCLES,
    MEMORY_CYCLES,
    PRODUCTS_16_BITS,
    SCHEDULERS,
    SHARED_BYTES,
    SMS,
    Machine,
)

HEAD_DIM, BLOCK = 128, 32
KEY_BYTES = 4 * HEAD_DIM  # of a key and its value, or of a row of queries and of y
MMA_ROWS, MMA_KEYS, MMA_WARPS, MMA_PER_SM = 16, 64, 4, 3
LATENT_QK, LATENT_V = 576, 512
MOST_SPLITS = 64
COMBINE_THREADS, PARTS_AT_ONCE = 256, 4


@dataclass(frozen=True, kw_only=True)
class Decode:
    """One token a row.

    Attributes:
        batch: B.
        keys: L, the new one included.
        heads: H.
        kv_heads: G; 1 for latents.
        block_only: Whether the block branch alone has weight.
    """

    batch: int
    keys: int
    heads: int
    kv_heads: int
    block_only: bool = False

    @property
    def seen(self) -> int:
        """Keys that a query sees: the new token is the last of its block."""
        last = self.keys - 1
        return last // BLOCK + last % BLOCK + 1 if self.block_only else self.keys


@dataclass(frozen=True, kw_only=True)
class Split:
    """Blocks of a call: `rows_of_blocks` for each key/value head and row of the batch, times `splits`."""

    blocks: int
    splits: int


def mma_splits(d: Decode) -> Split:
    """Into how many parts `mma.sync`'s kernel splits the keys."""
    blocks = ceil_div(d.heads // d.kv_heads, MMA_ROWS) * d.kv_heads * d.batch
    splits = max(1, min(2 * SMS // blocks, d.keys // 128, MOST_SPLITS))
    return Split(blocks=blocks * splits, splits=splits)


def latent_splits(d: Decode) -> Split:
    """Into how many parts `hopper_latent` splits the keys: the fewest with which its blocks end soonest."""
    blocks, tiles = ceil_div(d.heads, 64) * d.batch, ceil_div(d.keys, 64)
    best, least = 1, ceil_div(blocks, SMS) * tiles
    for splits in range(2, MOST_SPLITS + 1):
        fits = splits * blocks <= 2 * SMS and splits * d.heads <= MOST_SPLITS * 128
        if not fits or splits * 2 > tiles:
            break
        time = ceil_div(splits * blocks, SMS) * ceil_div(tiles, splits)
        if time < least:
            best, least = splits, time
    return Split(blocks=blocks * best, splits=best)


def cache_write(machine: Machine, d: Decode, row_bytes: int) -> KernelTime:
    """New keys and values into the cache: a block a row."""
    issue = instructions.CACHE_WRITE * 8 / SCHEDULERS
    work = Work(
        chains=[2 * MEMORY_CYCLES + issue] * d.batch, per_sm=8, cycles={"issue": issue * d.batch},
        memory_bytes=2.0 * d.batch * d.kv_heads * row_bytes,
    )  # fmt: skip
    return kernel_time("cache_write", work, machine)


def threads_of_row(splits: int, value_size: int) -> int:
    """That put a row's parts together: four columns each, and if they can only four of the parts."""
    columns = value_size // 4
    parts = max(1, 32 // columns)
    while parts * PARTS_AT_ONCE < splits and 2 * parts * columns <= COMBINE_THREADS:
        parts *= 2
    return parts * columns


def combine(machine: Machine, d: Decode, splits: int, value_size: int) -> KernelTime:
    """The splits' parts put together, started while attention ends; they are still in L2."""
    of_row = threads_of_row(splits, value_size)
    blocks = d.batch * ceil_div(d.heads * of_row, COMBINE_THREADS)
    rounds = ceil_div(splits, PARTS_AT_ONCE * (of_row // (value_size // 4)))
    issue = rounds * instructions.COMBINE_SPLITS * (COMBINE_THREADS // 32) / SCHEDULERS
    work = Work(
        chains=[2 * L2_CYCLES + rounds * L2_CYCLES + issue] * blocks, per_sm=5,
        cycles={"issue": issue * blocks}, memory_bytes=2.0 * d.batch * d.heads * value_size,
        l2_bytes=4.0 * d.batch * d.heads * value_size * splits,
    )  # fmt: skip
    return kernel_time("combine", work, machine, launch=0.0)


def mma_cycles() -> dict[str, float]:
    """What a step of 64 keys keeps busy on an SM in `hlaAttentionKernel`."""
    loop = instructions.MMA_DECODE
    return {
        "products": loop.mma_cycles(MMA_WARPS),
        "softmax": loop.exponential_cycles(MMA_WARPS),
        "issue": loop.issue_cycles(MMA_WARPS),
        "shared memory": loop.shared_cycles(MMA_WARPS, MMA_KEYS * KEY_BYTES),
    }


def _attention(machine: Machine, d: Decode, split: Split) -> KernelTime:
    """By `mma.sync`, started while the cache is written."""
    loop, cycles = instructions.MMA_DECODE, mma_cycles()
    all_steps = ceil_div(d.seen, MMA_KEYS)
    beside = at_once(split.blocks, MMA_PER_SM)
    step = max(loop.chain_cycles(MMA_WARPS), MEMORY_CYCLES, beside * max(cycles.values()))
    ends = (instructions.LIST_ROWS / 4 + instructions.STORE_PARTIAL) * MMA_WARPS / SCHEDULERS
    # Lengths and lam, queries, the first keys; then the longest part's steps.
    chain = 3 * MEMORY_CYCLES + ends + ceil_div(all_steps, split.splits) * step
    steps = all_steps * split.blocks // split.splits
    work = Work(
        chains=[chain] * split.blocks, per_sm=MMA_PER_SM,
        cycles={part: steps * each for part, each in cycles.items()},
        memory_bytes=d.batch * (d.kv_heads * d.seen * KEY_BYTES + d.heads * KEY_BYTES),
        l2_bytes=float(steps * MMA_KEYS * KEY_BYTES),
    )  # fmt: skip
    return kernel_time("hla_attention", work, machine, launch=0.0)


def decode(machine: Machine, d: Decode) -> Prediction:
    """Heads of 128: the cache's new rows, attention, and the parts put together."""
    split = mma_splits(d)
    kernels = [cache_write(machine, d, KEY_BYTES), _attention(machine, d, split)]
    if split.splits > 1:
        kernels.append(combine(machine, d, split.splits, HEAD_DIM))
    return Prediction(kernels=tuple(kernels))


def latent_tile_cycles() -> dict[str, float]:
    """What 64 rows and 64 keys keep busy on an SM in `hopper_latent`.

    Scores are computed once, the values' halves by a warpgroup each: from registers for its own tiles, from
    shared memory, with the weights written there, for the other's.
    """
    steps = LATENT_QK // 16
    scores = steps * (64 + 64) * 32  # bytes of both operands
    values = 2 * 4 * (LATENT_V // 2) * 32 + 4 * 64 * 32  # v for both; P for one
    return {
        "products": 64 * 64 * (LATENT_QK + LATENT_V) / PRODUCTS_16_BITS,
        "softmax": instructions.LATENT.exponential_cycles(4),
        "issue": instructions.LATENT.issue_cycles(4),
        "shared memory": (scores + values + 64 * 64 * 2 + 64 * LATENT_QK * 2) / SHARED_BYTES,
    }


def _latent_attention(machine: Machine, d: Decode, split: Split) -> KernelTime:
    """`hopper_latent`, started while the cache is written."""
    all_tiles = ceil_div(d.keys, 64)
    cycles = latent_tile_cycles()
    # Nothing is beside the first tile, nor beside what is stored.
    first = instructions.LATENT.issue_cycles(4) + cycles["products"]
    store = instructions.LATENT.storing * 8 / SCHEDULERS
    tile = max(*cycles.values(), 64 * LATENT_QK * 2 / L2_BYTES)
    chain = 3 * MEMORY_CYCLES + first + ceil_div(all_tiles, split.splits) * tile + store
    tiles = all_tiles * split.blocks // split.splits
    work = Work(
        chains=[chain] * split.blocks, cycles={part: tiles * each for part, each in cycles.items()},
        memory_bytes=2.0 * d.batch * (d.keys * LATENT_QK + d.heads * (LATENT_QK + LATENT_V)),
        l2_bytes=float(tiles * 64 * LATENT_QK * 2),
    )  # fmt: skip
    return kernel_time("hopper_latent", work, machine, clock=machine.products_clock, launch=0.0)


def latent_decode(machine: Machine, d: Decode) -> Prediction:
    """Latents of 576 elements, whose first 512 are the value."""
    split = latent_splits(d)
    kernels = [cache_write(machine, d, 2 * LATENT_QK), _latent_attention(machine, d, split)]
    if split.splits > 1:
        kernels.append(combine(machine, d, split.splits, LATENT_V))
    return Prediction(kernels=tuple(kernels))
