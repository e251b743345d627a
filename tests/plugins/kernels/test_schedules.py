"""Any order of threads, blocks and asynchronous copies gives the same bits.

The seeds of the random orders follow from R1TRT_SIMT_SEED (0 where it is not set); a failure names them.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from kernels.library import EAGER, LATE, RANDOM, HostKernels

from r1trt.plugin_checks.cases.case import Case
from r1trt.plugin_checks.cases.operators import OPERATORS

BASE_SEED = int(os.environ.get("R1TRT_SIMT_SEED", "0"))
RANDOM_ORDERS = 4
QUICK = [(name, case) for name, operator in OPERATORS.items() for case in operator.quick]


def schedules(case: Case) -> list[tuple[int, int]]:
    """Seeds and landings: reversed, and random ones of the case's own."""
    seeds = np.random.default_rng([BASE_SEED, *str(case).encode()]).integers(1, 2**31, RANDOM_ORDERS)
    return [(0, EAGER), (-1, LATE), (-1, EAGER), *((int(seed), RANDOM) for seed in seeds)]


@pytest.mark.parametrize(("operator", "case"), QUICK, ids=str)
def test_the_bits_do_not_depend_on_the_schedule(library: HostKernels, operator: str, case: Case) -> None:
    compute = OPERATORS[operator].compute
    want = compute(library, case)
    for seed, landing in schedules(case):
        library.configure(seed=seed, landing=landing)
        got = compute(library, case)
        for name, output in want.items():
            same = np.array_equal(got[name].view(np.uint8), output.view(np.uint8))
            assert same, f"{operator}, {case}: {name} differs with seed {seed}, landing {landing}"
