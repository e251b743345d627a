"""The cheapest choices whose damages stay within a budget: a multiple-choice knapsack, solved exactly.

Damages add up as if groups did not meet each other, which small ones nearly do; what a plan really costs is
measured afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r1trt.errors import PlanError
from r1trt.lifetime.standard_streams import without_stream

FRONT_POINTS = 24


@dataclass(frozen=True, kw_only=True)
class Options:
    """What one group can choose from.

    Attributes:
        damages: Of each choice.
        costs: Of each choice.
    """

    damages: tuple[float, ...]
    costs: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Solution:
    """One choice for each group.

    Attributes:
        chosen: Index of each group's choice.
        damage: Sum of their damages.
        cost: Sum of their costs.
    """

    chosen: tuple[int, ...]
    damage: float
    cost: float


def solution_of(groups: Sequence[Options], chosen: Sequence[int]) -> Solution:
    """Some choices and what they sum up to."""
    pairs = list(zip(groups, chosen, strict=True))
    return Solution(
        chosen=tuple(chosen),
        damage=sum(group.damages[index] for group, index in pairs),
        cost=sum(group.costs[index] for group, index in pairs),
    )


def cheapest_within(groups: Sequence[Options], budget: float) -> Solution:
    """The choices of the smallest cost whose damages sum up to at most `budget`; of equal ones any.

    An integer linear program, one variable a choice (HiGHS, by SciPy).

    Raises:
        PlanError: Even the choices of the least damage exceed the budget; says what they come to.
    """
    least = sum(min(group.damages) for group in groups)
    if least > budget:
        raise PlanError(
            "The budget cannot be met.",
            found=f"{budget:.3g} nats",
            expected=f"at least {least:.3g}, the damage of the widest types",
            fix="allow more",
        )
    worth = [_undominated(group) for group in groups]
    taken, _ = _solved(groups, worth, budget, whole=True)
    places = [index for kept in worth for index in kept]
    return solution_of(groups, [places[at] for at in np.flatnonzero(taken > 0.5)])


def least_cost(groups: Sequence[Options], budget: float) -> float:
    """What no choices within the budget cost less than: the program's value where a choice may be split."""
    return _solved(groups, [_undominated(group) for group in groups], budget, whole=False)[1]


def _solved(
    groups: Sequence[Options], worth: Sequence[Sequence[int]], budget: float, *, whole: bool
) -> tuple[NDArray[np.float64], float]:
    """How much of each choice that is worth having is taken, and what all of it costs."""
    # NOTES: SciPy takes half a second to import.
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    pairs = [(group, index) for group, kept in zip(groups, worth, strict=True) for index in kept]
    costs = np.array([group.costs[index] for group, index in pairs])
    damages = np.array([group.damages[index] for group, index in pairs])
    owner = np.repeat(np.arange(len(groups)), [len(kept) for kept in worth])
    one_each = csr_matrix((np.ones(len(owner)), (owner, np.arange(len(owner)))))
    # NOTES: HiGHS's tolerances are absolute: both sides are brought near 1.
    scale_cost, scale_damage = costs.max() or 1.0, max(budget, 1e-6 * damages.max()) or 1.0
    # HiGHS now and then prints the name of a function of its own, which is no result of a command.
    with without_stream(1):
        result = milp(
            costs / scale_cost,
            integrality=np.full(len(owner), int(whole)),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(damages[None] / scale_damage, -np.inf, budget / scale_damage),
            ],
            options={"mip_rel_gap": 0.0},
        )
    if result.x is None:
        raise PlanError("The search found no solution.", found=result.message)
    return result.x, float(result.fun * scale_cost)


def _undominated(group: Options) -> list[int]:
    """Choices that no other one is as good as in both, the first of equal ones."""
    pairs = list(zip(group.damages, group.costs, strict=True))
    return [
        at
        for at, (damage, cost) in enumerate(pairs)
        if not any(
            d <= damage and c <= cost and ((d, c) != (damage, cost) or other < at)
            for other, (d, c) in enumerate(pairs)
            if other != at
        )
    ]


def front(groups: Sequence[Options], points: int = FRONT_POINTS) -> list[Solution]:
    """Solutions from the least damage to the least cost, each better than the others in one of both."""
    least = sum(min(group.damages) for group in groups)
    cheapest = sum(_damage_of_cheapest(group) for group in groups)
    steps = np.linspace(0.0, 1.0, points)[1:] ** 2
    budgets = [least, *(least + step * (cheapest - least) for step in steps)]
    solutions = [cheapest_within(groups, budget) for budget in budgets]
    found = {solution.chosen: solution for solution in solutions}
    ordered = sorted(found.values(), key=lambda item: (item.damage, item.cost))
    return [item for at, item in enumerate(ordered) if all(item.cost < other.cost for other in ordered[:at])]


def _damage_of_cheapest(group: Options) -> float:
    return min((cost, damage) for damage, cost in zip(group.damages, group.costs, strict=True))[1]


def greedy_within(groups: Sequence[Options], budget: float) -> Solution:
    """What a greedy search ends at: always the step that saves the most for its damage, while it fits.

    The usual way of mixed-precision tools; kept to be compared with.
    """
    chosen = [int(np.argmin(group.damages)) for group in groups]
    while True:
        now = solution_of(groups, chosen)
        steps = []
        for at, group in enumerate(groups):
            for index, (damage, cost) in enumerate(zip(group.damages, group.costs, strict=True)):
                more, saved = damage - group.damages[chosen[at]], group.costs[chosen[at]] - cost
                if saved > 0 and now.damage + more <= budget:
                    steps.append((saved / max(more, 1e-12), at, index))
        if not steps:
            return now
        _, at, index = max(steps)
        chosen[at] = index


def random_within(groups: Sequence[Options], budget: float, tries: int = 2000, seed: int = 0) -> Solution:
    """The best of many random choices that fit: groups in random order take a random choice while it fits."""
    generator = np.random.default_rng(seed)
    best = solution_of(groups, [int(np.argmin(group.damages)) for group in groups])
    for _ in range(tries):
        chosen = [int(np.argmin(group.damages)) for group in groups]
        damage = sum(group.damages[index] for group, index in zip(groups, chosen, strict=True))
        for at in generator.permutation(len(groups)):
            index = int(generator.integers(len(groups[at].costs)))
            more = groups[at].damages[index] - groups[at].damages[chosen[at]]
            if damage + more <= budget:
                chosen[at], damage = index, damage + more
        found = solution_of(groups, chosen)
        best = found if found.cost < best.cost else best
    return best
