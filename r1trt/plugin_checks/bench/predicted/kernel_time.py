"""A kernel's time: what keeps it busy, what does not overlap with that, and its start."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from r1trt.plugin_checks.bench.predicted.machine import (
    L2_BYTES,
    LAUNCH_US,
    MEMORY_CYCLES,
    SMS,
    Machine,
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a kernel has to do.

    Attributes:
        chains: Cycles of each block in the order in which they start, were it alone on its part of an SM.
        per_sm: Blocks of an SM at a time.
        cycles: By part of an SM, the cycles that all blocks together keep it busy.
        memory_bytes: To and from memory.
        l2_bytes: To and from the L2 cache; those of memory pass through it, too.
    """

    chains: Sequence[float]
    per_sm: int = 1
    cycles: Mapping[str, float]
    memory_bytes: float = 0.0
    l2_bytes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class KernelTime:
    """Microseconds of one launch.

    Attributes:
        name: The kernel.
        blocks: Thread blocks, or tiles of those that stay on their SM.
        waves: `blocks` over those that run at a time.
        terms: By what could be the bound, were everything else free; they overlap.
        exposed: What none of that hides: latencies, the last wave, a block's beginning and end.
        launch: Until it starts.
    """

    name: str
    blocks: int
    waves: float
    terms: Mapping[str, float]
    exposed: float
    launch: float

    @property
    def bound(self) -> str:
        """The longest term, or `latency` where what is not hidden takes longer."""
        largest = max(self.terms, key=lambda name: self.terms[name])
        return largest if self.terms[largest] >= self.exposed + self.launch else "latency"

    @property
    def us(self) -> float:
        """All of it."""
        return max(self.terms.values()) + self.exposed + self.launch

    def __str__(self) -> str:
        """One line."""
        terms = ", ".join(f"{name} {us:.1f}" for name, us in self.terms.items())
        return (
            f"{self.name}: {self.us:.1f} us; {self.blocks} blocks in {self.waves:.2f} waves; {terms}; "
            f"exposed {self.exposed:.1f}, launch {self.launch:.1f}; {self.bound}"
        )


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A row's kernels, one behind the other."""

    kernels: tuple[KernelTime, ...]

    @property
    def us(self) -> float:
        """Their sum."""
        return sum(kernel.us for kernel in self.kernels)

    @property
    def bound(self) -> str:
        """The longest kernel, and its bound."""
        longest = max(self.kernels, key=lambda kernel: kernel.us)
        return f"{longest.name}: {longest.bound}"

    def __str__(self) -> str:
        """A line a kernel."""
        return "\n".join(map(str, self.kernels))


def kernel_time(
    name: str, work: Work, machine: Machine, *, clock: float | None = None, launch: float = LAUNCH_US
) -> KernelTime:
    """The time of a kernel on a machine.

    Args:
        name: Its name.
        work: What it does.
        machine: Where.
        clock: Cycles a second; the machine's.
        launch: Microseconds until it starts.
    """
    clock = clock or machine.clock
    terms = {part: cycles / SMS / clock * 1e6 for part, cycles in work.cycles.items()}
    terms["L2"] = max(work.l2_bytes, work.memory_bytes) / (L2_BYTES * SMS * clock) * 1e6
    terms["memory"] = work.memory_bytes / machine.bandwidth * 1e6
    slots = SMS * work.per_sm
    chain = makespan(work.chains, slots) / clock * 1e6
    # Nothing is busy while the first data are on their way.
    exposed = max(chain - max(terms.values()), MEMORY_CYCLES / clock * 1e6)
    count = len(work.chains)
    return KernelTime(
        name=name, blocks=count, waves=count / slots, terms=terms, exposed=exposed, launch=launch
    )


def makespan(costs: Sequence[float], slots: int) -> float:
    """When the last of blocks ends that take the first free slot in their order."""
    if len(costs) <= slots:
        return max(costs, default=0.0)
    ends = [0.0] * slots
    for cost in costs:
        heapq.heapreplace(ends, ends[0] + cost)
    return max(ends)


def ceil_div(number: int, by: int) -> int:
    """The quotient, rounded up."""
    return -(-number // by)


def at_once(blocks: int, per_sm: int) -> int:
    """Blocks that share an SM while all of them run, at most `per_sm`."""
    return min(per_sm, max(1, ceil_div(blocks, SMS)))
