"""What a Hopper GPU does in a cycle, from data sheets and others' microbenchmarks; nothing is fitted.

docs/gpu.md says which sources were quoted from memory, and how the L2 cache's rate was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

from r1trt.estimate.gpus import DEVICES, Device

SMS = 132  # of an H100 and an H200 (SXM): their data sheet
SCHEDULERS = 4  # of an SM, each issuing an instruction of a warp a cycle (CUDA programming guide, 9.0)
WARP = 32

# Multiply-adds of an SM in a cycle by wgmma: of 16 bits (H100 white paper), and twice as many in FP8.
PRODUCTS_16_BITS, PRODUCTS_FP8 = 2048, 4096
# What mma.sync reaches of it on a Hopper (https://arxiv.org/abs/2402.13499).
SHARE_OF_MMA_SYNC = 0.629
MMA_PRODUCTS = 16 * 8 * 16  # of an HMMA.16816
EXPONENTIALS = 16  # MUFU results of an SM in a cycle (CUDA programming guide, throughput of 9.0)
SHARED_BYTES = 128  # of an SM in a cycle, read and written (the same)
L2_BYTES = (
    64  # to an SM in a cycle: its port. What the L2 cache itself can give is in no document of the H100's
)
MEMORY_CYCLES, L2_CYCLES = 479, 262  # of a load (https://arxiv.org/abs/2402.13499, tables of latencies)
DEPENDENT_CYCLES = 4  # from an instruction to one that needs its result (the same)

# A kernel's start in a CUDA graph, and nothing where it starts before the one in front has ended
# (https://hazyresearch.stanford.edu/blog/2025-05-27-no-bubbles, H100).
LAUNCH_US = 1.3
# Power holds the clock of large products down: 865 of 989 TFLOP/s (FlashMLA's notes, H800).
SUSTAINED = 865 / 989


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A GPU of Hopper's kind.

    Attributes:
        name: As in `r1trt estimate`.
        clock: Cycles a second at which its products make the data sheet's operations.
        bandwidth: Bytes a second that good kernels move to and from memory.
    """

    name: str
    clock: float
    bandwidth: float

    @property
    def products_clock(self) -> float:
        """Cycles a second while `wgmma` runs all the time."""
        return self.clock * SUSTAINED


def machine_from_device(device: Device) -> Machine:
    """The machine of a row of the table of GPUs; a Hopper's."""
    clock = device.operations["bf16"] / (2 * PRODUCTS_16_BITS * SMS)
    return Machine(name=device.name, clock=clock, bandwidth=device.reachable_bandwidth)


H100, H200 = (machine_from_device(DEVICES[name]) for name in ("h100", "h200"))
