"""One row of a profile: sums over everything that it counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from r1trt.estimate.times import OPERATIONS_OF_MAC
from r1trt.ops.cost import NO_COST, Cost
from r1trt.profile.places import OTHER
from r1trt.profile.work import Work


@dataclass(kw_only=True)
class Row:
    """One row of a phase.

    Attributes:
        name: The row's name.
        layer: Index of the decoder layer of what it counts first; None outside of them.
        layer_type: Kind of layer of what it counts first.
        includes: Names of rows whose work a measured engine computes inside this row's nodes.
        cost: What the engine executes.
        reference_macs: Multiply-adds of the reference's matrix products.
        seconds: By the roofline.
        compute_bound_seconds: Those of parts that are bound by compute.
        weight_bytes: Weights that it holds.
        kv_bytes: KV cache that it holds.
        live_bytes: Most bytes that are alive between layers while one of its layers runs.
        measured_seconds: Where anything was measured.
    """

    name: str
    layer: int | None = None
    layer_type: str = OTHER
    includes: set[str] = field(default_factory=set)
    cost: Cost = NO_COST
    reference_macs: int = 0
    seconds: float = 0.0
    compute_bound_seconds: float = 0.0
    weight_bytes: int = 0
    kv_bytes: int = 0
    live_bytes: int = 0
    measured_seconds: float | None = None

    @property
    def label(self) -> str:
        """Its name, and what it includes."""
        return f"{self.name} (with {', '.join(sorted(self.includes))})" if self.includes else self.name

    @property
    def flops(self) -> int:
        """Operations that the engine executes."""
        return OPERATIONS_OF_MAC * sum(self.cost.macs.values())

    @property
    def reference_flops(self) -> int:
        """Operations of the reference's matrix products."""
        return OPERATIONS_OF_MAC * self.reference_macs

    @property
    def intensity(self) -> float | None:
        """Operations a byte; None where nothing is moved."""
        return self.flops / self.cost.moved_bytes if self.cost.moved_bytes else None

    @property
    def bound(self) -> str | None:
        """What most of its time by the roofline is bound by; None where it takes none."""
        if not self.seconds:
            return None
        return "compute" if 2 * self.compute_bound_seconds >= self.seconds else "memory"

    @property
    def roofline_share(self) -> float | None:
        """Its time by the roofline over that which was measured."""
        return self.seconds / self.measured_seconds if self.measured_seconds and self.seconds else None

    def add(self, work: Work, count: int) -> None:
        """Counts a part of as many equal nodes."""
        self.cost += work.cost.times(count)
        self.reference_macs += count * work.reference_macs
        self.seconds += count * work.seconds
        self.compute_bound_seconds += count * work.seconds * work.is_bound_by_compute
        self.weight_bytes += count * work.weight_bytes
        self.kv_bytes += count * work.kv_bytes
        self.live_bytes = max(self.live_bytes, work.live_bytes)
