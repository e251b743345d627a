"""What a search found, and what it compared it with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from r1trt.precision.plan import PrecisionPlan
from r1trt.search.damage import Damage
from r1trt.search.fisher import CheapScores
from r1trt.search.measure import Measured


@dataclass(frozen=True, kw_only=True)
class Point:
    """A plan, with what it is predicted and measured to cost.

    Attributes:
        name: What it is.
        kinds: Kind of each group's choice.
        seconds: Modelled time of the workload's searched layers.
        bytes: Bytes of the searched weights.
        narrow_share: Share of those weights' elements that have 8 bits or fewer.
        fp8_share: Share of those that are FP8.
        predicted: Sum of its groups' damages, in nats.
        searched: Measured on the search's text; None where it was not.
        final: Measured on the held-out text; None where it was not.
    """

    name: str
    kinds: Mapping[str, str]
    seconds: float
    bytes: float
    narrow_share: float
    fp8_share: float
    predicted: float
    searched: Measured | None = None
    final: Measured | None = None


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The whole search.

    Attributes:
        plan: The plan that was chosen.
        chosen: Its figures.
        points: What it was compared with: all BF16, the rules', all FP8, a greedy and a random search.
        front: From the most accurate to the cheapest; predictions.
        groups: Layers of each group.
        damages: By group and kind.
        costs: Modelled seconds of the workload and bytes of weights, by group and kind.
        scores: Cheap scores of the choices; None where they were not asked for.
        goal: The budget, or the point of the front, as text.
        facts: What was searched, on which text, for which device.
    """

    plan: PrecisionPlan
    chosen: Point
    points: tuple[Point, ...]
    front: tuple[Point, ...]
    groups: Mapping[str, tuple[str, ...]]
    damages: Mapping[str, Mapping[str, Damage]]
    costs: Mapping[str, Mapping[str, Mapping[str, float]]]
    scores: CheapScores | None
    goal: str
    facts: Mapping[str, Any]

    @property
    def caution(self) -> str | None:
        """What is not known of the plan's builder; None where it was asked what it executes."""
        if self.facts["builder"] != "tensorrt":
            return None
        return (
            f"TensorRT builds for {self.facts['arch']}, and what it executes of these types has not been "
            "asked: the forms that are offered are those that TensorRT-RTX executes on SM89 and SM120."
        )

    def to_json(self) -> dict[str, Any]:
        """For `search.json`; the plan has a file of its own."""
        return {
            "goal": self.goal,
            "facts": dict(self.facts),
            "chosen": asdict(self.chosen),
            "points": [asdict(point) for point in self.points],
            "front": [asdict(point) for point in self.front],
            "groups": {group: list(layers) for group, layers in self.groups.items()},
            "damages": {
                group: {kind: asdict(damage) for kind, damage in kinds.items()}
                for group, kinds in self.damages.items()
            },
            "scores": None if self.scores is None else asdict(self.scores),
            "costs": {
                group: {kind: dict(cost) for kind, cost in kinds.items()}
                for group, kinds in self.costs.items()
            },
        }
