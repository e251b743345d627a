"""`r1trt precision search`: the cheapest plan whose measured damage stays within a budget.

Every choice of every group is measured on a few hundred tokens; an integer program picks the cheapest choices
whose damages add up to the budget; that plan and its neighbours are then run as a whole, since damages only
nearly add up, and the cheapest that really keeps the budget is taken. Text that neither calibration nor
search has read says in the end what it costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from r1trt.errors import PlanError
from r1trt.precision.plan import PrecisionPlan
from r1trt.search.config import Budget
from r1trt.search.measure import Interval, Measured, Measurement
from r1trt.search.optimize import Options, Solution, cheapest_within, solution_of
from r1trt.search.result import Point
from r1trt.search.space import SearchSpace

ROUNDS = 6
_NEAR = 0.97
"""Of the budget: who comes so near to it has found it."""
_STEP = (0.25, 4.0)
_CLOSE = 0.02
"""Of a bound: where nothing lies between what keeps the budget and what does not."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A plan that was run as a whole."""

    solution: Solution
    plan: PrecisionPlan
    point: Point


def run_solution(space: SearchSpace, measurement: Measurement, solution: Solution, name: str) -> Found:
    """Run the plan of a choice for every group as a whole, under a name for its point."""
    plan = space.plan(solution)
    point = replace(space.point(name, solution), searched=measurement.measure(plan, name))
    return Found(solution=solution, plan=plan, point=point)


def damage_of(measured: Measured, budget: Budget) -> Interval:
    """What the budget limits, as it was measured."""
    return measured.kl if budget.kl is not None else measured.perplexity_increase


def keeps(measured: Measured, budget: Budget) -> bool:
    """Whether a measured plan is within a budget, at the upper end of its interval."""
    return damage_of(measured, budget).high <= budget.limit


def best_under_budget(
    space: SearchSpace, measurement: Measurement, budget: Budget
) -> tuple[Found, list[Found]]:
    """Find the cheapest plan that keeps the budget on the search's text.

    Args:
        space: What is chosen from.
        measurement: Runs whole plans.
        budget: The limit.

    Returns:
        The best, and all that were run.

    Raises:
        PlanError: Not even the widest types keep the budget.
    """
    options = space.options
    widest = run_solution(space, measurement, solution_of(options, [0] * len(options)), "all wide")
    _require_possible(widest, budget)
    runs = [widest]
    low, high = 0.0, math.inf
    # What the widest types do already is not in the sums.
    done = damage_of(_measured(widest), budget).high
    allowed = max(budget.nats - (done if budget.kl is not None else math.log1p(done)), 0.01 * budget.nats)
    while len(runs) <= ROUNDS:
        solution = cheapest_within(options, allowed)
        run = next((run for run in runs if run.solution.chosen == solution.chosen), None)
        if run is None:
            run = run_solution(space, measurement, solution, f"round {len(runs)}")
            runs.append(run)
        share = _share(_measured(run), budget)
        if keeps(_measured(run), budget):
            low = allowed
            if share > _NEAR or solution.cost <= _least(options) * (1 + 1e-9):
                break
        else:
            # Of the same choices nothing else is to be expected.
            high = min(allowed, solution.damage)
        if high - low <= _CLOSE * high:
            break
        allowed = _next(allowed, low, high, share)
    kept = [run for run in runs if keeps(_measured(run), budget)]
    return min(kept, key=lambda run: run.solution.cost), runs


def _measured(run: Found) -> Measured:
    measured = run.point.searched
    assert measured is not None, "it was run"
    return measured


def _require_possible(widest: Found, budget: Budget) -> None:
    measured = _measured(widest)
    if keeps(measured, budget):
        return
    found = damage_of(measured, budget)
    raise PlanError(
        "The budget cannot be met: not even the widest types keep it.",
        found=f"{budget}",
        expected=f"at least {found.high:.4g} (all of the widest types: {found.mean:.4g}, with the interval "
        f"of {measured.tokens} tokens)",
        fix="allow more, or measure on more tokens, which narrows the interval",
    )


def _share(measured: Measured, budget: Budget) -> float:
    """How much of the budget is used."""
    return damage_of(measured, budget).high / budget.limit


def _next(allowed: float, low: float, high: float, share: float) -> float:
    """The next sum of damages to allow: between what kept the budget and what did not, else in proportion."""
    if low > 0 and high < math.inf:
        return math.sqrt(low * high)
    step = min(max(1.0 / max(share, 1e-6), _STEP[0]), _STEP[1])
    return min(allowed, high) * min(step, 0.9) if share > 1.0 else allowed * step


def _least(options: Sequence[Options]) -> float:
    return sum(min(option.costs) for option in options)
