"""Cases under AddressSanitizer with UBSan and under ThreadSanitizer, in several schedules.

A sanitizer ends the process at its first report, which is then the test's message. By default the cases are
those that take little time and some that reach the tiles of many rows; `--all-cases` takes every one.
"""

from __future__ import annotations

import pytest
from kernels.build import build_library
from kernels.library import EAGER, LATE, RANDOM
from kernels.run_cases import run_cases

from r1trt.plugin_checks.cases.operators import OPERATORS

# ThreadSanitizer sees a missing barrier in any order; copies that land at once are accesses like others.
pytestmark = pytest.mark.slow

# Beside the quick ones: 64 rows a tile, with every kind of weights and shared expert, and keys in many tiles.
LARGER = {
    "rope": (),
    "attention": ("seq=300,lam=none",),
    "moe": (
        "seq=90,hidden=144,experts=70,width=16,data_type=1",
        "seq=80,hidden=272,width=144,shared_width=48,weight_type=3,layout=1,static=True",
        "seq=80,hidden=272,width=256,shared_width=128,weight_type=3,layout=2,swiglu=2",
    ),
}
SCHEDULES = {
    "asan": [(0, LATE), (-1, EAGER), (5, RANDOM)],
    "tsan": [(0, EAGER)],
}


def cases_of(operator: str, *, every: bool) -> list[str]:
    """Names of the cases to run."""
    known = OPERATORS[operator]
    names = list(map(str, known.cases if every else known.quick))
    assert set(LARGER[operator]) <= set(map(str, known.cases))
    return [*names, *(name for name in LARGER[operator] if name not in names)]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("sanitizer", SCHEDULES)
def test_nothing_is_reported(sanitizer: str, operator: str, pytestconfig: pytest.Config) -> None:
    schedules, every = SCHEDULES[sanitizer], pytestconfig.getoption("--all-cases")
    cases = cases_of(operator, every=every)
    result = run_cases(
        build_library(sanitizer), sanitizer, operator, cases=cases, schedules=schedules,
        timeout_s=3600 if every else 600,
    )  # fmt: skip
    assert result.returncode == 0, f"{result.stdout[-500:]}{result.stderr[-6000:]}"
    assert len(result.stdout.splitlines()) == len(schedules) * len(cases)
