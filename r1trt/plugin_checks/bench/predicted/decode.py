"""Decoding against a cache: heads of 128, and latents of 576. BF16, one token a row.

Legend: B batch, H query heads, G key/value heads, L keys in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from r1trt.plugin_checks.bench.predicted import instructions
from r1trt.plugin_checks.bench.predicted.instructions import Loop
from r1trt.plugin_checks.bench.predicted.kernel_time import (
    KernelTime,
    Prediction,
    Work,
    at_once,
    ceil_div,
    kernel_time,
)
from r1trt.plugin_checks.bench.predicted.machine import (
    L2_CYCLES,
    LAUNCH_US,
    MEMORY_CYCLES,
    PRODUCTS_16_BITS,
    SCHEDULERS,
    SHARED_BYTES,
    SMS,
    Machine,
)

HEAD_DIM, BLOCK = 128, 32
LATENT_QK, LATENT_V = 576, 512
MOST_SPLITS = 64
COMBINE_INSTRUCTIONS = 200  # of a warp that puts up to eight parts together


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


def mma_splits(d: Decode, rows: int) -> Split:
    """Into how many parts `mma.sync`'s kernel splits the keys, with tiles of so many rows."""
    chunks = ceil_div(d.heads // d.kv_heads, rows)
    blocks = chunks * d.kv_heads * d.batch
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
    work = Work(
        chains=[2 * MEMORY_CYCLES] * d.batch, per_sm=8, cycles={"issue": 64.0 * d.batch},
        memory_bytes=2.0 * d.batch * d.kv_heads * row_bytes,
    )  # fmt: skip
    return kernel_time("cache_write", work, machine)


def combine(machine: Machine, d: Decode, splits: int, value_size: int, *, launch: float) -> KernelTime:
    """The splits' parts put together; they are still in L2."""
    threads = d.heads * value_size // 4
    blocks = d.batch * ceil_div(threads, 256)
    rounds = ceil_div(splits, 8)
    work = Work(
        chains=[(1 + rounds) * L2_CYCLES + rounds * COMBINE_INSTRUCTIONS * 2] * blocks,
        per_sm=5,
        cycles={"issue": rounds * COMBINE_INSTRUCTIONS * 8 / SCHEDULERS * blocks},
        memory_bytes=2.0 * d.batch * d.heads * value_size,
        l2_bytes=4.0 * d.batch * d.heads * value_size * splits,
    )
    return kernel_time("combine", work, machine, launch=launch)


@dataclass(frozen=True, kw_only=True)
class MmaTile:
    """A tile of the kernel by mma.sync.

    Attributes:
        rows: Of it.
        keys: Of a step.
        warps: Of its block.
        per_sm: Blocks of an SM at a time.
        key_bytes: Of a key and its value.
        loop: A step's instructions.
    """

    rows: int
    keys: int
    warps: int
    per_sm: int
    key_bytes: int
    loop: Loop

    @property
    def cycles(self) -> dict[str, float]:
        """What a step keeps busy."""
        return {
            "products": self.loop.mma_cycles(self.warps),
            "softmax": self.loop.exponential_cycles(self.warps),
            "issue": self.loop.issue_cycles(self.warps),
            "shared memory": self.loop.shared_cycles(self.warps, self.keys * self.key_bytes),
        }


SMALL = MmaTile(rows=16, keys=64, warps=4, per_sm=3, key_bytes=4 * HEAD_DIM, loop=instructions.MMA_DECODE)
LATENTS = MmaTile(rows=64, keys=32, warps=8, per_sm=1, key_bytes=2 * LATENT_QK, loop=instructions.MMA_LATENT)


def _mma_kernel(
    machine: Machine, d: Decode, tile: MmaTile, split: Split, memory: float, *, launch: float
) -> KernelTime:
    steps = ceil_div(ceil_div(d.seen, tile.keys), split.splits)  # of the longest part
    beside = at_once(split.blocks, tile.per_sm)
    step = max(tile.loop.chain_cycles(tile.warps), MEMORY_CYCLES, beside * max(tile.cycles.values()))
    ends = (instructions.LIST_ROWS / 4 + instructions.STORE_PARTIAL) * tile.warps / SCHEDULERS
    chain = 3 * MEMORY_CYCLES + ends + steps * step  # lengths and lam; queries; the first keys
    all_steps = ceil_div(d.seen, tile.keys) * split.blocks / split.splits
    work = Work(
        chains=[chain] * split.blocks, per_sm=tile.per_sm, memory_bytes=memory,
        cycles={part: all_steps * each for part, each in tile.cycles.items()},
        l2_bytes=all_steps * tile.keys * tile.key_bytes,
    )  # fmt: skip
    return kernel_time("hla_attention", work, machine, launch=launch)


def decode(machine: Machine, d: Decode, *, unproven: bool) -> Prediction:
    """Heads of 128: the cache's new rows, attention, and the parts put together."""
    split = mma_splits(d, rows=SMALL.rows if not d.block_only else 64)
    launch = 0.0 if unproven else LAUNCH_US
    memory = 4.0 * HEAD_DIM * d.batch * d.kv_heads * d.seen + 4.0 * HEAD_DIM * d.batch * d.heads
    kernels = [
        cache_write(machine, d, 4 * HEAD_DIM),
        _mma_kernel(machine, d, SMALL, split, memory, launch=launch),
    ]
    if split.splits > 1:
        kernels.append(combine(machine, d, split.splits, HEAD_DIM, launch=launch))
    return Prediction(kernels=tuple(kernels))


def _latent_memory(d: Decode) -> float:
    return 2.0 * d.batch * (d.keys * LATENT_QK + d.heads * (LATENT_QK + LATENT_V))


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


def _hopper_latent(machine: Machine, d: Decode, split: Split) -> KernelTime:
    tiles = ceil_div(ceil_div(d.keys, 64), split.splits)
    cycles = latent_tile_cycles()
    first = instructions.LATENT.issue_cycles(4) + cycles["products"]  # nothing beside the first tile
    chain = 3 * MEMORY_CYCLES + first + tiles * max(cycles.values()) + STORE_LATENT
    all_tiles = ceil_div(d.keys, 64) * split.blocks / split.splits
    work = Work(
        chains=[chain] * split.blocks, cycles={part: all_tiles * each for part, each in cycles.items()},
        memory_bytes=_latent_memory(d), l2_bytes=all_tiles * 64 * LATENT_QK * 2,
    )  # fmt: skip
    return kernel_time("hopper_latent", work, machine, clock=machine.products_clock)


STORE_LATENT = 794 * 8 / SCHEDULERS  # what is behind the last tile, of eight warps


def latent_decode(machine: Machine, d: Decode, *, unproven: bool) -> Prediction:
    """Latents of 576 elements, whose first 512 are the value."""
    split = latent_splits(d) if unproven else mma_splits(d, rows=LATENTS.rows)
    attention = (
        _hopper_latent(machine, d, split)
        if unproven
        else _mma_kernel(machine, d, LATENTS, split, _latent_memory(d), launch=LAUNCH_US)
    )
    kernels = [cache_write(machine, d, 2 * LATENT_QK), attention]
    if split.splits > 1:
        launch = 0.0 if unproven else LAUNCH_US
        kernels.append(combine(machine, d, split.splits, LATENT_V, launch=launch))
    return Prediction(kernels=tuple(kernels))
