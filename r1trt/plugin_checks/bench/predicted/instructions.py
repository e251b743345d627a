"""Instructions in machine code (sm_90a, nvcc 13.0.88), of one warp and one step of a kernel's loop.

Read with cuobjdump, as they are executed in most steps: without what a step jumps over, as masks and the
clearing of values, and with bodies of inner loops times their rounds. `tests/plugins/test_instructions.py`
counts products and exponentials of Hopper's attention anew. `LAY_OUT` and `COMBINE_SPLITS`, which have many
branches, are about.
"""

from __future__ import annotations

from dataclasses import dataclass

from r1trt.plugin_checks.bench.predicted.machine import (
    EXPONENTIALS,
    MMA_PRODUCTS,
    PRODUCTS_16_BITS,
    SCHEDULERS,
    SHARE_OF_MMA_SYNC,
    SHARED_BYTES,
    WARP,
)

MATRIX_BYTES = 512  # that an LDSM of four 8 x 8 matrices reads


@dataclass(frozen=True, kw_only=True)
class Loop:
    """One step.

    Attributes:
        instructions: All.
        products: HMMA, or HGMMA and QGMMA, of which a warpgroup's four warps issue one together.
        exponentials: MUFU.EX2.
        matrices: LDSM.
        masking: More instructions where some rows do not see some of the keys.
        storing: Instructions behind a tile's last step.
    """

    instructions: int
    products: int = 0
    exponentials: int = 0
    matrices: int = 0
    masking: int = 0
    storing: int = 0

    def issue_cycles(self, warps: int) -> float:
        """That the schedulers need for a block's warps."""
        return self.instructions * warps / SCHEDULERS

    def exponential_cycles(self, warps: int) -> float:
        """That an SM's special function units need."""
        return self.exponentials * warps * WARP / EXPONENTIALS

    def mma_cycles(self, warps: int) -> float:
        """That an SM's tensor cores need for products by mma.sync."""
        return self.products * warps * MMA_PRODUCTS / (PRODUCTS_16_BITS * SHARE_OF_MMA_SYNC)

    def shared_cycles(self, warps: int, written: float) -> float:
        """That shared memory needs for the warps' matrices and the bytes written to it."""
        return (self.matrices * warps * MATRIX_BYTES + written) / SHARED_BYTES

    def chain_cycles(self, warps: int) -> float:
        """Of a block alone: its products, then its other instructions, for these need those."""
        others = self.instructions - self.products
        return self.mma_cycles(warps) + others * warps / SCHEDULERS


# Decoding by mma.sync: 16 rows and 64 keys of 128 elements; a block's listing of its rows, and storing.
MMA_DECODE = Loop(instructions=334, products=32, exponentials=10, matrices=24)
LIST_ROWS, STORE_PARTIAL = 904, 1282

# Attention by wgmma: head size 128, 128 rows and 128 keys; latents, 64 rows and 64 keys of either warpgroup.
FULL_BRANCH = Loop(instructions=530, products=16, exponentials=66, masking=181, storing=517)
BLOCK_BRANCH = Loop(instructions=526, products=16, exponentials=66, masking=293, storing=343)
LATENT = Loop(instructions=840, products=44, exponentials=36, storing=521)

# Products of the experts by wgmma, a step along K: BF16 256 and 128 columns a warpgroup, E4M3 128.
PRODUCT_256 = Loop(instructions=88, products=4)
PRODUCT_128 = Loop(instructions=86, products=4)
PRODUCT_FP8_PAIR = Loop(instructions=303, products=8)  # two steps, with their sums in FP32
STORE_256, STORE_128 = 1390 - 88, 844 - 86
# By mma.sync, tiles of 16 rows: gate and up, down; BF16 64 columns a step, E4M3 128.
SMALL_GATED_16, SMALL_16 = (
    Loop(instructions=187, products=32, matrices=20),
    Loop(instructions=128, products=16, matrices=12),
)
SMALL_GATED_FP8, SMALL_FP8 = (
    Loop(instructions=629, products=64, matrices=24),
    Loop(instructions=350, products=32, matrices=12),
)
STORE_SMALL = 404

# The router: logits of up to 64 tokens, a stretch of 64 columns; of many, a stage of 32, with the adding of
# every other one, and of that the splitting of weights behind the products; a token's selection, and where
# experts' rows begin.
LOGITS_FEW = Loop(instructions=1247, products=48)
LOGITS_MANY = Loop(instructions=666, products=96, matrices=20)
LOGITS_MANY_NARROW = Loop(instructions=575, products=48, matrices=16)
LOGITS_SMALLEST = Loop(instructions=388, products=12, matrices=10)
SPLIT_WEIGHTS = 146
SELECT, LAY_OUT = 415, 300
# A round of a block's loop over a row.
SWIGLU, SWIGLU_FP8, PERMUTE, PERMUTE_FP8, COMBINE, ROTATE = 414, 771, 257, 629, 233, 257
# Of a warp: new keys and values into the cache; up to four parts of a split row put together.
CACHE_WRITE, COMBINE_SPLITS = 248, 500
