"""The knapsack against all combinations, and beside greedy and random searches."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest

from r1trt.errors import PlanError
from r1trt.search.optimize import (
    Options,
    cheapest_within,
    front,
    greedy_within,
    least_cost,
    random_within,
    solution_of,
)


def random_groups(seed: int, count: int = 6) -> list[Options]:
    generator = np.random.default_rng(seed)
    return [
        Options(
            damages=(0.0, *(float(10 ** generator.uniform(-5, -2)) for _ in range(2))),
            costs=tuple(sorted((float(generator.uniform(1, 9)) for _ in range(3)), reverse=True)),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.9, 1.0])
def test_no_combination_is_cheaper(seed: int, share: float) -> None:
    groups = random_groups(seed)
    budget = share * sum(max(group.damages) for group in groups)
    every = [solution_of(groups, chosen) for chosen in itertools.product(range(3), repeat=len(groups))]
    best = min(item.cost for item in every if item.damage <= budget)
    found = cheapest_within(groups, budget)
    assert found.cost == pytest.approx(best) and found.damage <= budget * (1 + 1e-9)
    assert least_cost(groups, budget) <= found.cost * (1 + 1e-9)
    greedy, chance = greedy_within(groups, budget), random_within(groups, budget, tries=50)
    for other in (greedy, chance):
        assert other.damage <= budget * (1 + 1e-9) and other.cost >= found.cost * (1 - 1e-9)


def test_the_bound_splits_one_choice() -> None:
    """A budget that takes all of the better step, and half of the other."""
    groups = [
        Options(damages=(0.0, 1.0), costs=(10.0, 4.0)),
        Options(damages=(0.0, 1.0), costs=(10.0, 6.0)),
    ]
    assert least_cost(groups, 1.5) == pytest.approx(4.0 + 8.0)
    assert cheapest_within(groups, 1.5).cost == pytest.approx(14.0)
    assert least_cost(groups, 2.0) == pytest.approx(cheapest_within(groups, 2.0).cost)


def test_greedy_and_random_lose_where_steps_hide_one_another() -> None:
    groups = [
        Options(damages=(0.0, 0.6), costs=(10.0, 3.0)),
        Options(damages=(0.0, 0.5), costs=(10.0, 4.5)),
        Options(damages=(0.0, 0.5), costs=(10.0, 4.5)),
    ]
    assert cheapest_within(groups, 1.0).cost == 19.0
    assert greedy_within(groups, 1.0).cost == 23.0


def test_many_groups_are_solved_exactly() -> None:
    groups = random_groups(1, count=120)
    budget = 0.3 * sum(max(group.damages) for group in groups)
    found = cheapest_within(groups, budget)
    assert found.damage <= budget
    assert random_within(groups, budget, tries=500).cost > found.cost
    assert greedy_within(groups, budget).cost >= found.cost


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """HiGHS prints the name of one of its functions where it solves this; `--json` has stdout to itself."""
    generator = np.random.default_rng(2)
    groups = [
        Options(
            damages=(0.0, *map(float, 10 ** generator.uniform(-6, -3, 3))),
            costs=tuple(sorted(map(float, generator.uniform(1, 9, 4)), reverse=True)),
        )
        for _ in range(int(generator.integers(20, 140)))
    ]
    for share in (0.05, 0.2, 0.5):
        cheapest_within(groups, share * sum(max(group.damages) for group in groups))
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == ""


def test_of_equal_costs_the_least_damage_is_taken() -> None:
    groups = [Options(damages=(0.0, 0.3, 0.2), costs=(2.0, 1.0, 1.0)) for _ in range(30)]
    assert cheapest_within(groups, 1e9).chosen == (2,) * 30
    assert cheapest_within(groups, 1e9).damage == pytest.approx(6.0)


def test_a_choice_that_breaks_the_model_is_not_taken() -> None:
    groups = [Options(damages=(0.0, 1e6), costs=(2.0, 1.0)), Options(damages=(0.0, 0.1), costs=(2.0, 1.0))]
    assert cheapest_within(groups, 1.0).chosen == (0, 1)


def test_the_front_has_no_dominated_point() -> None:
    points = front(random_groups(2, count=20))
    assert len(points) > 8
    assert all(one.damage < two.damage and one.cost > two.cost for one, two in itertools.pairwise(points))
    assert points[0].damage == 0.0


def test_a_budget_below_the_widest_types_is_refused() -> None:
    groups = [Options(damages=(0.2, 0.3), costs=(2.0, 1.0))]
    with pytest.raises(PlanError, match="cannot be met") as caught:
        cheapest_within(groups, 0.1)
    assert caught.value.details["expected"] == "at least 0.2, the damage of the widest types"
