"""Every case under AddressSanitizer with UBSan and under ThreadSanitizer, in several schedules.

A sanitizer ends the process at its first report, which is then the test's message.
"""

from __future__ import annotations

import pytest
from kernels.build import build_library
from kernels.library import EAGER, LATE, RANDOM
from kernels.run_cases import run_cases

from r1trt.plugin_checks.cases.operators import OPERATORS

# ThreadSanitizer sees a missing barrier in any order; copies that land at once are accesses like others.
pytestmark = pytest.mark.slow

SCHEDULES = {
    "asan": [(0, LATE), (-1, EAGER), (5, RANDOM)],
    "tsan": [(0, EAGER)],
}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("sanitizer", SCHEDULES)
def test_nothing_is_reported(sanitizer: str, operator: str) -> None:
    schedules = SCHEDULES[sanitizer]
    result = run_cases(build_library(sanitizer), sanitizer, operator, schedules=schedules)
    assert result.returncode == 0, f"{result.stdout[-500:]}{result.stderr[-6000:]}"
    assert len(result.stdout.splitlines()) == len(schedules) * len(OPERATORS[operator].cases)
