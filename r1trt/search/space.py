"""Choices as the search sees them: groups with damages and costs, and points made of choices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from r1trt.ops.layer_precision import FP8, QUANTIZED, LayerPrecision, Precision
from r1trt.precision.plan import PrecisionPlan
from r1trt.search.candidates import Choice, Group, plan_of_choices
from r1trt.search.damage import NONE, Damages
from r1trt.search.optimize import Options, Solution, solution_of
from r1trt.search.result import Point
from r1trt.search.times import CostModel


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What is chosen from.

    Attributes:
        base: The plan in the widest types, which holds every other layer.
        groups: In the graph's order.
        damages: What each choice costs in accuracy.
        costs: What each choice costs in time and bytes.
    """

    base: PrecisionPlan
    groups: Sequence[Group]
    damages: Damages
    costs: CostModel

    @cached_property
    def options(self) -> tuple[Options, ...]:
        """Numbers for the optimization, computed once."""
        return tuple(
            Options(
                damages=tuple(self._damage(group, choice) for choice in group.choices),
                costs=tuple(self.costs.cost(choice) for choice in group.choices),
            )
            for group in self.groups
        )

    def _damage(self, group: Group, choice: Choice) -> float:
        """Of the widest choice none; every other one was measured."""
        return NONE.kl if choice is group.choices[0] else self.damages[group.name][choice.kind].kl

    def choices(self, solution: Solution) -> list[Choice]:
        """The choices of a solution."""
        return [group.choices[index] for group, index in zip(self.groups, solution.chosen, strict=True)]

    def plan(self, solution: Solution) -> PrecisionPlan:
        """A solution's plan; each layer says why it is what it is."""
        choices = self.choices(solution)
        plan = plan_of_choices(self.base, choices)
        layers = dict(plan.layers)
        for group, choice in zip(self.groups, choices, strict=True):
            reason = self._reason(group, choice)
            layers |= {name: replace(layers[name], reason=reason) for name in choice.layers}
        return replace(plan, layers=layers)

    def _reason(self, group: Group, choice: Choice) -> str:
        costs = {item.kind: self._damage(group, item) for item in group.choices}
        listed = ", ".join(f"{kind} {kl:.2g}" for kind, kl in costs.items())
        return f"searched: {choice.kind}; KL divergence of this group alone, in nats: {listed}"

    def all_costs(self) -> dict[str, dict[str, dict[str, float]]]:
        """Seconds and bytes of every choice, by group and kind."""
        return {
            group.name: {
                choice.kind: {"seconds": self.costs.seconds(choice), "bytes": self.costs.bytes(choice)}
                for choice in group.choices
            }
            for group in self.groups
        }

    def all_of(self, kind: str) -> Solution:
        """Every group of one kind, or the last one that it has."""
        chosen = []
        for group in self.groups:
            kinds = [choice.kind for choice in group.choices]
            chosen.append(kinds.index(kind) if kind in kinds else len(kinds) - 1)
        return solution_of(self.options, chosen)

    def of_plan(self, plan: PrecisionPlan) -> Solution | None:
        """The choices that have the same types as a plan's layers; None where some have none of these.

        Of several of these the one whose weights are scaled as the plan's scales are found.
        """
        by_row = plan.calibration.get("weight_scaling") == "channel"
        chosen = []
        for group in self.groups:
            first = group.layers[0]
            fitting = [
                all(_types(layer) == _types(plan.layers[name]) for name, layer in choice.layers.items())
                for choice in group.choices
            ]
            if True not in fitting:
                return None
            alike = [
                fits and (choice.layers[first].weight_axis is not None) == by_row
                for fits, choice in zip(fitting, group.choices, strict=True)
            ]
            chosen.append(alike.index(True) if True in alike else fitting.index(True))
        return solution_of(self.options, chosen)

    def point(self, name: str, solution: Solution) -> Point:
        """A solution with its predictions."""
        choices = self.choices(solution)
        elements: Counter[str | None] = Counter()
        for choice in choices:
            for key, layer in choice.layers.items():
                elements[layer.weight] += self.costs.elements(key)
        whole = max(elements.total(), 1)
        return Point(
            name=name,
            kinds={group.name: choice.kind for group, choice in zip(self.groups, choices, strict=True)},
            seconds=sum(self.costs.seconds(choice) for choice in choices),
            bytes=sum(self.costs.bytes(choice) for choice in choices),
            narrow_share=sum(elements[kind] for kind in QUANTIZED) / whole,
            fp8_share=elements[FP8] / whole,
            predicted=solution.damage,
        )


def _types(layer: LayerPrecision) -> tuple[Precision, Precision | None]:
    return layer.input, layer.weight


def kinds_counted(point: Point) -> Mapping[str, int]:
    """Number of groups of each kind."""
    kinds = list(point.kinds.values())
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
