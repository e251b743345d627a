"""The three operators as the tests see them: cases, the call, the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from r1trt.plugin_checks.cases import attention_cases, moe_cases, moe_reference, rope_cases
from r1trt.plugin_checks.cases.case import Case
from r1trt.plugin_checks.cases.library import KernelLibrary

QUICK_COST = {"rope": 10**9, "attention": 8 * 10**6, "moe": 4 * 10**7}


@dataclass(frozen=True, kw_only=True)
class OperatorUnderTest:
    """An operator.

    Attributes:
        cases: Its cases.
        quick: Those of them that take little time, for runs in many schedules.
        compute: Runs the kernels on a case's tensors; returns all that they write.
        check: Compares that with the definition; returns the largest error over its tolerance, at most 1.
    """

    cases: list[Any]
    quick: list[Any]
    compute: Callable[[KernelLibrary, Any], dict[str, np.ndarray]]
    check: Callable[[Any, dict[str, np.ndarray]], float]

    def run(self, library: KernelLibrary, case: Case) -> float:
        """Runs a case and checks it."""
        return self.check(case, self.compute(library, case))


def _operator(name: str, cases: list[Any], compute: Any, check: Any) -> OperatorUnderTest:
    quick = [case for case in cases if case.cost < QUICK_COST[name]]
    return OperatorUnderTest(cases=cases, quick=quick, compute=compute, check=check)


OPERATORS = {
    "rope": _operator("rope", rope_cases.CASES, rope_cases.compute, rope_cases.check),
    "attention": _operator(
        "attention", attention_cases.CASES, attention_cases.compute, attention_cases.check
    ),
    "moe": _operator("moe", moe_cases.CASES, moe_cases.compute, moe_reference.check),
}
