"""The mixture of experts around its products: the router, rows to experts and back, SwiGLU; and the layer.

Legend: T tokens, D hidden size, E experts, F expert width, K experts a token.
"""

from __future__ import annotations

from dataclasses import dataclass

from r1trt.plugin_checks.bench.predicted import instructions
from r1trt.plugin_checks.bench.predicted.instructions import Loop
from r1trt.plugin_checks.bench.predicted.kernel_time import (
    KernelTime,
    Prediction,
    Work,
    ceil_div,
    kernel_time,
)
from r1trt.plugin_checks.bench.predicted.machine import (
    DEPENDENT_CYCLES,
    L2_CYCLES,
    MEMORY_CYCLES,
    SCHEDULERS,
    WARP,
    Machine,
)
from r1trt.plugin_checks.bench.predicted.products import Product, product, takes_hopper

FEW_TOKENS, SLICED_TOKENS, SLICES, STRETCH = 64, 2048, 4, 64
WEIGHT_PARTS = 3
LEAST_LARGE_TILES = 96


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A call.

    Attributes:
        tokens: T.
        experts: E.
        top_k: K.
        hidden: D.
        width: F.
        fp8: Whether rows and weights are E4M3, with a scale of each 128 columns.
        hot: Whether what a kernel reads is in L2 already.
    """

    tokens: int
    experts: int
    top_k: int
    hidden: int
    width: int
    fp8: bool = False
    hot: bool = False

    @property
    def rows(self) -> int:
        """T K."""
        return self.tokens * self.top_k


def tokens_per_router_block(tokens: int) -> int:
    """One block up to 16 tokens, then blocks of 8 until there are 128 of them."""
    return tokens if tokens <= 16 else ceil_div(ceil_div(tokens, 128), 8) * 8


def stretches_per_slice(hidden: int) -> int:
    """Of the logits' columns, 64 each."""
    return ceil_div(ceil_div(hidden, STRETCH), SLICES)


def logit_slices(tokens: int, hidden: int) -> int:
    """Slices of the columns that are blocks of their own."""
    return 1 if tokens > SLICED_TOKENS else ceil_div(ceil_div(hidden, STRETCH), stretches_per_slice(hidden))


def _logits_memory(e: Experts, slices: int) -> float:
    moved = 4.0 * e.experts * e.hidden + 2.0 * e.tokens * e.hidden + 4.0 * e.tokens * e.experts * slices
    return 0.0 if e.hot else moved


def _logits_few(machine: Machine, e: Experts) -> KernelTime:
    """Blocks of 16 tokens, 8 experts and a slice; 32 stretches of it at a time, four of them a warp."""
    slices, loop = logit_slices(e.tokens, e.hidden), instructions.LOGITS_FEW
    blocks = ceil_div(e.tokens, 16) * ceil_div(e.experts, 8) * slices
    rounds = ceil_div(stretches_per_slice(e.hidden), 32)
    load = L2_CYCLES if e.hot else MEMORY_CYCLES
    issue = loop.issue_cycles(8)
    work = Work(
        chains=[rounds * (load + issue)] * blocks,
        cycles={"products": loop.mma_cycles(8) * rounds * blocks, "issue": issue * rounds * blocks},
        memory_bytes=_logits_memory(e, slices),
        l2_bytes=float(blocks * stretches_per_slice(e.hidden) * STRETCH * (16 * 2 + 8 * 4)),
    )  # fmt: skip
    return kernel_time("router_logits", work, machine)


@dataclass(frozen=True, kw_only=True)
class LogitsTile:
    """Tokens by experts of a block, and a stage's instructions."""

    tokens: int
    experts: int
    loop: Loop


def logits_tile(e: Experts) -> LogitsTile:
    """As `runTyped` chooses it for BF16."""
    if e.experts <= 64:
        return LogitsTile(tokens=64, experts=32, loop=instructions.LOGITS_SMALLEST)
    large = LogitsTile(tokens=128, experts=128, loop=instructions.LOGITS_MANY)
    tiles = ceil_div(e.tokens, 128) * ceil_div(e.experts, 128) * logit_slices(e.tokens, e.hidden)
    if tiles >= LEAST_LARGE_TILES:
        return large
    return LogitsTile(tokens=64, experts=128, loop=instructions.LOGITS_MANY_NARROW)


def _logits_many(machine: Machine, e: Experts) -> KernelTime:
    """Stages of 32 columns; the weights are split into parts on their way to shared memory."""
    slices, tile = logit_slices(e.tokens, e.hidden), logits_tile(e)
    blocks = ceil_div(e.tokens, tile.tokens) * ceil_div(e.experts, tile.experts) * slices
    stages = ceil_div(e.hidden, STRETCH) * 2 // slices
    written = 64 * (tile.tokens + WEIGHT_PARTS * tile.experts)
    cycles = {
        "products": tile.loop.mma_cycles(8),
        "issue": tile.loop.issue_cycles(8),
        "shared memory": tile.loop.shared_cycles(8, written),
    }
    # A stage's loads are under way while one is multiplied, but its weights are split behind that.
    split = instructions.SPLIT_WEIGHTS * 8 / SCHEDULERS
    work = Work(
        chains=[MEMORY_CYCLES + stages * (max(cycles.values()) + split)] * blocks,
        cycles={part: blocks * stages * each for part, each in cycles.items()},
        memory_bytes=_logits_memory(e, slices),
        l2_bytes=float(blocks * stages * 32 * (2 * tile.tokens + 4 * tile.experts)),
    )
    return kernel_time("router_logits_many", work, machine)


def logits(machine: Machine, e: Experts) -> KernelTime:
    """The router's product."""
    return _logits_few(machine, e) if e.tokens <= FEW_TOKENS else _logits_many(machine, e)


def selection(machine: Machine, e: Experts) -> tuple[KernelTime, ...]:
    """From logits to experts, weights, and rows: `routerKernel`, and of more blocks `routerRowsKernel`.

    Both start while the kernel in front still runs. A warp's instructions need one another.
    """
    of_block = tokens_per_router_block(e.tokens)
    blocks, warps = ceil_div(e.tokens, of_block), min(32, max(8, of_block))
    rounds = ceil_div(of_block, warps)
    slices = logit_slices(e.tokens, e.hidden)
    chain = 2 * L2_CYCLES + rounds * (L2_CYCLES + instructions.SELECT * DEPENDENT_CYCLES)
    lay_out = instructions.LAY_OUT * DEPENDENT_CYCLES
    work = Work(
        chains=[chain + (lay_out if blocks == 1 else 0)] * blocks,
        cycles={"issue": e.tokens * instructions.SELECT / SCHEDULERS},
        l2_bytes=4.0 * e.tokens * e.experts * slices + 12.0 * e.rows,
    )
    kernels = [kernel_time("router", work, machine, launch=0.0)]
    if blocks > 1:
        counts = ceil_div(blocks, 128)
        rows = Work(
            chains=[(2 + counts) * L2_CYCLES + lay_out] * blocks,
            cycles={"issue": float(instructions.LAY_OUT * 16 // SCHEDULERS * blocks)},
            l2_bytes=2.0 * blocks * blocks * e.experts + 12.0 * e.rows,
        )
        kernels.append(kernel_time("router_rows", rows, machine, launch=0.0))
    return tuple(kernels)


@dataclass(frozen=True, kw_only=True)
class Move:
    """A kernel of one block a row, in rounds of loads that need the result of a first one.

    Attributes:
        name: The kernel.
        blocks: Rows.
        vectors: That a block's threads move, each.
        threads: Of a block.
        per_sm: Blocks of an SM at a time.
        instructions: Of a warp and round.
        moved: Bytes to and from memory.
    """

    name: str
    blocks: int
    vectors: int
    threads: int
    per_sm: int
    instructions: int
    moved: float


def moving(machine: Machine, move: Move) -> KernelTime:
    """Its time."""
    rounds = ceil_div(move.vectors, move.threads)
    issue = ceil_div(move.vectors, WARP) * move.instructions / SCHEDULERS  # other warps have nothing to do
    work = Work(
        chains=[(1 + rounds) * MEMORY_CYCLES + issue] * move.blocks, per_sm=move.per_sm,
        cycles={"issue": issue * move.blocks}, memory_bytes=move.moved,
    )  # fmt: skip
    return kernel_time(move.name, work, machine)


def permutation(machine: Machine, e: Experts) -> KernelTime:
    """Tokens to their experts' rows; quantized where they are E4M3."""
    out = 1 + 4 / 128 if e.fp8 else 2
    move = Move(
        name="permute", blocks=e.tokens, vectors=e.hidden // (16 if e.fp8 else 8), threads=256,
        per_sm=6 if e.fp8 else 8,
        instructions=instructions.PERMUTE_FP8 if e.fp8 else instructions.PERMUTE,
        moved=e.tokens * e.hidden * (2 + e.top_k * out),
    )  # fmt: skip
    return moving(machine, move)


def combination(machine: Machine, e: Experts) -> KernelTime:
    """The experts' rows back, weighted."""
    moved = 2.0 * e.tokens * e.hidden * (e.top_k + 1)
    move = Move(
        name="moe_combine", blocks=e.tokens, vectors=e.hidden // 8, threads=256, per_sm=7,
        instructions=instructions.COMBINE, moved=moved,
    )  # fmt: skip
    return moving(machine, move)


def swiglu(machine: Machine, e: Experts) -> KernelTime:
    """As a kernel of its own; quantized where rows are E4M3."""
    out = 1 + 4 / 128 if e.fp8 else 2
    move = Move(
        name="swiglu", blocks=e.rows, vectors=e.width // 16, threads=128, per_sm=10,
        instructions=instructions.SWIGLU_FP8 if e.fp8 else instructions.SWIGLU,
        moved=e.rows * e.width * (4 + out),
    )  # fmt: skip
    return moving(machine, move)


def layer(machine: Machine, e: Experts) -> Prediction:
    """All of its kernels."""

    def of(columns: int, depth: int) -> Product:
        return Product(
            tokens=e.tokens, experts=e.experts, top_k=e.top_k, columns=columns, depth=depth, fp8=e.fp8
        )

    kernels = [logits(machine, e), *selection(machine, e), permutation(machine, e)]
    kernels.append(product(machine, "gate_up", of(2 * e.width, e.hidden), gated=True))
    if takes_hopper(e.rows, e.experts):
        kernels.append(swiglu(machine, e))
    kernels.append(product(machine, "down", of(e.hidden, e.width), gated=False))
    return Prediction(kernels=(*kernels, combination(machine, e)))


def router(machine: Machine, e: Experts) -> Prediction:
    """The selection alone, as the bench has it: logits and selection, less the logits."""
    return Prediction(kernels=selection(machine, e))


def move_row(machine: Machine, e: Experts, *, combine: bool) -> Prediction:
    """The permutation or the combination alone."""
    return Prediction(kernels=((combination if combine else permutation)(machine, e),))
