"""The experts' grouped products: by `wgmma` in tiles that stay on their SM, by `mma.sync` for very few rows.

Legend: T tokens, E experts, K experts a token, R rows of all experts, N and K columns of a weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from r1trt.plugin_checks.bench.predicted import instructions
from r1trt.plugin_checks.bench.predicted.instructions import Loop
from r1trt.plugin_checks.bench.predicted.kernel_time import KernelTime, Work, at_once, ceil_div, kernel_time
from r1trt.plugin_checks.bench.predicted.machine import (
    L2_BYTES,
    MEMORY_CYCLES,
    PRODUCTS_16_BITS,
    PRODUCTS_FP8,
    SCHEDULERS,
    SHARED_BYTES,
    Machine,
)

STEP_BYTES = 128  # of a row along K
CONSUMER_WARPS = 8
FEW_ROWS = 512  # of an expert on average: up to so many, tiles of 64 rows
SMALL_ROWS, SMALL_COLUMNS = 16, 128  # of a tile by mma.sync


@dataclass(frozen=True, kw_only=True)
class Product:
    """One grouped product on uniformly drawn routings.

    Attributes:
        tokens: T.
        experts: E.
        top_k: Experts a token.
        columns: Of the result, N; of gate and up together, where SwiGLU is apart.
        depth: K.
        fp8: Whether rows and weights are E4M3.
    """

    tokens: int
    experts: int
    top_k: int
    columns: int
    depth: int
    fp8: bool

    @property
    def rows(self) -> int:
        """R."""
        return self.tokens * self.top_k

    @property
    def size(self) -> int:
        """Bytes of an element of rows and weights."""
        return 1 if self.fp8 else 2

    @property
    def memory_bytes(self) -> float:
        """Weights of the experts that have rows, rows in, rows out in BF16."""
        weights = expected_tiles(self.tokens, self.experts, self.top_k, self.tokens)
        return weights * self.columns * self.depth * self.size + self.rows * (
            self.depth * self.size + 2.0 * self.columns
        )


@dataclass(frozen=True, kw_only=True)
class HopperTile:
    """Rows and columns of a tile by `wgmma`; two warpgroups share them, under one another or side by side."""

    rows: int
    columns: int
    store: int

    @property
    def columns_of_group(self) -> int:
        """Columns of a warpgroup's 64 rows."""
        return self.columns * self.rows // 128

    def cycles(self, *, fp8: bool) -> dict[str, float]:
        """What a step of 128 bytes along K keeps busy on an SM."""
        instructions_of = {
            True: instructions.PRODUCT_FP8_PAIR.issue_cycles(CONSUMER_WARPS) / 2,
            False: _plain_loop(self.columns_of_group).issue_cycles(CONSUMER_WARPS),
        }
        read = 2 * 4 * (64 + self.columns_of_group) * 32
        depth = STEP_BYTES if fp8 else STEP_BYTES // 2
        rate = PRODUCTS_FP8 if fp8 else PRODUCTS_16_BITS
        return {
            "products": self.rows * self.columns * depth / rate,
            "issue": instructions_of[fp8],
            "shared memory": (read + (self.rows + self.columns) * STEP_BYTES) / SHARED_BYTES,
        }


def _plain_loop(columns: int) -> Loop:
    return instructions.PRODUCT_256 if columns == 256 else instructions.PRODUCT_128


def takes_hopper(rows: int, experts: int) -> bool:
    """Whether a product is `hopperProduct`'s: from one row an expert on."""
    return rows >= (experts if experts > 1 else 128)


def hopper_tile(rows: int, experts: int, *, fp8: bool) -> HopperTile:
    """As `launchProduct` chooses it."""
    if rows <= FEW_ROWS * experts:
        return HopperTile(rows=64, columns=256, store=instructions.STORE_128)
    if fp8:
        return HopperTile(rows=128, columns=128, store=instructions.STORE_128)
    return HopperTile(rows=128, columns=256, store=instructions.STORE_256)


@cache
def expected_tiles(tokens: int, experts: int, top_k: int, tile: int) -> float:
    """Tiles of so many rows that all experts' rows fill on average, an expert's last one in part.

    A token goes to an expert with probability K / E: its rows are binomial. With tiles of T rows these are
    the experts that have any.
    """
    share = top_k / experts
    if share == 1:
        return experts * float(ceil_div(tokens, tile))
    logs = (math.log(share), math.log1p(-share))

    def probability(rows: int) -> float:
        chosen = math.lgamma(tokens + 1) - math.lgamma(rows + 1) - math.lgamma(tokens - rows + 1)
        return math.exp(chosen + rows * logs[0] + (tokens - rows) * logs[1])

    return experts * math.fsum(ceil_div(rows, tile) * probability(rows) for rows in range(1, tokens + 1))


def _hopper(machine: Machine, name: str, p: Product) -> KernelTime:
    tile = hopper_tile(p.rows, p.experts, fp8=p.fp8)
    across = ceil_div(p.columns, tile.columns)
    tiles = math.ceil(expected_tiles(p.tokens, p.experts, p.top_k, tile.rows)) * across
    steps = ceil_div(p.depth * p.size, STEP_BYTES)
    cycles = tile.cycles(fp8=p.fp8)
    step = max(*cycles.values(), (tile.rows + tile.columns) * STEP_BYTES / L2_BYTES)
    # The other warps load meanwhile, but nothing is multiplied while a tile is stored.
    store = tile.store * CONSUMER_WARPS / SCHEDULERS
    work = Work(
        chains=[steps * step + store] * tiles,
        cycles={part: tiles * steps * each for part, each in cycles.items()},
        memory_bytes=p.memory_bytes,
        l2_bytes=tiles * (steps * (tile.rows + tile.columns) * STEP_BYTES + tile.rows * tile.columns * 2.0),
    )
    return kernel_time(name, work, machine, clock=machine.products_clock)


def _small(machine: Machine, name: str, p: Product, *, gated: bool) -> KernelTime:
    """By `mma.sync` in tiles of 16 rows; gate and up in one tile, and SwiGLU behind them."""
    halves = 2 if gated else 1
    loop = {
        (True, True): instructions.SMALL_GATED_FP8,
        (False, True): instructions.SMALL_FP8,
        (True, False): instructions.SMALL_GATED_16,
        (False, False): instructions.SMALL_16,
    }[gated, p.fp8]
    tiles = math.ceil(expected_tiles(p.tokens, p.experts, p.top_k, SMALL_ROWS))
    blocks = tiles * ceil_div(p.columns // halves, SMALL_COLUMNS)
    steps = ceil_div(p.depth * p.size, STEP_BYTES)
    step_bytes = (SMALL_ROWS + halves * SMALL_COLUMNS) * STEP_BYTES
    cycles = {
        "products": loop.mma_cycles(4),
        "issue": loop.issue_cycles(4),
        "shared memory": loop.shared_cycles(4, step_bytes),
    }
    per_sm = 3 if gated else 6
    step = max(loop.chain_cycles(4), MEMORY_CYCLES, at_once(blocks, per_sm) * max(cycles.values()))
    chain = 2 * MEMORY_CYCLES + steps * step + instructions.STORE_SMALL
    work = Work(
        chains=[chain] * blocks, per_sm=per_sm, memory_bytes=p.memory_bytes,
        cycles={part: blocks * steps * each for part, each in cycles.items()},
        l2_bytes=float(blocks * steps * step_bytes),
    )  # fmt: skip
    return kernel_time(name, work, machine)


def product(machine: Machine, name: str, p: Product, *, gated: bool) -> KernelTime:
    """The product of gate and up, or down's."""
    if takes_hopper(p.rows, p.experts):
        return _hopper(machine, name, p)
    return _small(machine, name, p, gated=gated)
