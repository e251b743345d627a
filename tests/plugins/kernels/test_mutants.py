"""Planted defects: every case that is named with one must find it, and must pass without it.

A defect is a change of a kernel's text that must fit exactly once, so that none can stop to be one unnoticed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache

import pytest
from kernels import mutants_attention, mutants_hopper, mutants_hopper_attention, mutants_moe, mutants_rope
from kernels.build import build_library
from kernels.mutant import Mutant, Schedules
from kernels.run_cases import FAILED, run_cases

pytestmark = pytest.mark.slow

MUTANTS = {
    "rope": mutants_rope.MUTANTS,
    "attention": [*mutants_attention.MUTANTS, *mutants_hopper_attention.MUTANTS],
    "moe": [*mutants_moe.MUTANTS, *mutants_hopper.MUTANTS],
}
ALL = [(operator, mutant) for operator, mutants in MUTANTS.items() for mutant in mutants]
TIMEOUT_S = 90


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The defects that a run plants: without `--all-cases` those that are found in seconds."""
    if "mutant" in metafunc.fixturenames:
        every = metafunc.config.getoption("--all-cases")
        taken = [(operator, mutant) for operator, mutant in ALL if every or not mutant.long]
        metafunc.parametrize(("operator", "mutant"), taken, ids=str)


@cache
def unchanged(
    operator: str, sanitizer: str, schedules: Schedules, hopper: bool, every: bool
) -> subprocess.CompletedProcess[str]:
    """All that the operator's defects name for a build and its schedules, run on the kernels as they are."""
    same = [
        mutant
        for mutant in MUTANTS[operator]
        if (mutant.sanitizer, mutant.schedules, mutant.hopper) == (sanitizer, schedules, hopper)
        and (every or not mutant.long)
    ]
    names = sorted({case for mutant in same for case in mutant.cases})
    library = build_library(sanitizer, hopper=hopper)
    return run_cases(library, sanitizer, operator, cases=names, schedules=schedules)


def assert_each_fails(cases: Sequence[str], result: subprocess.CompletedProcess[str], report: str) -> None:
    """Every case has its own line with the report."""
    lines = result.stdout.splitlines()
    for case in cases:
        assert any(f": {case}: " in line and report in line for line in lines), (
            f"{case} does not find it: {lines}"
        )


def test_found(operator: str, mutant: Mutant, pytestconfig: pytest.Config) -> None:
    every = pytestconfig.getoption("--all-cases")
    good = unchanged(operator, mutant.sanitizer, mutant.schedules, mutant.hopper, every)
    assert good.returncode == 0, f"without any defect: {good.stdout}{good.stderr[-2000:]}"
    library = build_library(mutant.sanitizer, change=mutant.change, hopper=mutant.hopper)
    result = run_cases(
        library, mutant.sanitizer, operator, cases=mutant.cases, schedules=mutant.schedules,
        timeout_s=TIMEOUT_S,
    )  # fmt: skip
    if mutant.sanitizer == "plain":
        assert result.returncode == FAILED, f"{result.stdout}{result.stderr[-2000:]}"
        assert_each_fails(mutant.cases, result, mutant.report)
        return
    assert result.returncode not in (0, FAILED), result.stdout
    assert mutant.report in result.stderr, f"it ends otherwise: {result.stderr[-3000:]}"
    assert len(mutant.cases) == 1, "a sanitizer's report ends the process: name one case"


def test_every_operator_has_enough_of_them() -> None:
    assert all(len({mutant.name for mutant in mutants}) == len(mutants) >= 6 for mutants in MUTANTS.values())
