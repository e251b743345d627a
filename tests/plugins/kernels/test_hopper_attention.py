"""Hopper's own attention kernels on the CPU, by the host layer's mbarriers, TMA and wgmma, against FP64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernels.build import build_library
from kernels.library import EAGER, LATE, RANDOM, HostKernels
from kernels.run_cases import run_cases

from r1trt.plugin_checks.cases.attention_cases import AttentionCase
from r1trt.plugin_checks.cases.operators import OPERATORS
from r1trt.plugin_checks.cases.selection import LARGER

ATTENTION = OPERATORS["attention"]
SCHEDULES = [(0, LATE), (-1, EAGER), (5, RANDOM)]
LEAST_TOKENS = 64  # of a prefill that they take
MOST_COST = 3 * 10**8  # of a case: about a second
LITTLE_SHARED_MEMORY = 96 * 1024


def is_their_own(case: AttentionCase) -> bool:
    """Whether one of Hopper's own kernels takes it."""
    return case.sm == 90 and (case.lam == "none" if case.latent else case.seq >= LEAST_TOKENS)


EXISTING = [case for case in ATTENTION.cases if is_their_own(case)]
ALL = [case for case in [*EXISTING, *LARGER["attention"]] if is_their_own(case) and case.cost < MOST_COST]
# Beside the existing cases: latents with several tiles of keys in a split and of rows, padding, a full cache;
# tiles of heads, several tiles of a thread block, first tokens beside own blocks, a cache that ends too soon.
CHOSEN = (
    "seq=1,heads=128,qk=576,v=512,lam=none,past=(191,),num_sms=1",
    "batch=3,seq=2,heads=128,qk=576,v=512,lam=none,past=(300,63,0),lengths=(2,1,0),room=9",
    "batch=2,seq=4,heads=40,qk=576,v=512,lam=none,past=(126,300),room=-3,data_type=1",
    "seq=330,heads=8,block=16,inter_block=1,past=(77,),room=11",
    "seq=330,heads=8,block=256,inter_block=1,past=(77,),room=11",
    "seq=300,heads=4,kv_heads=2,qk=128,v=128,inter_block=1,past=(100,),room=-37,data_type=1",
)
CASES = [*EXISTING, *(case for case in ALL if str(case) in CHOSEN)]
assert len(CASES) == len(EXISTING) + len(CHOSEN)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The cases: without `--all-cases` those that take little time."""
    every = metafunc.config.getoption("--all-cases")
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", ALL if every else CASES, ids=str)
    if "sanitizer" in metafunc.fixturenames:  # the other one takes as long, most of it to compile
        metafunc.parametrize("sanitizer", SANITIZED if every else ["tsan"])


@pytest.fixture(scope="module")
def built() -> HostKernels:
    return HostKernels(build_library(hopper=True))


@pytest.fixture
def library(built: HostKernels) -> Iterator[HostKernels]:
    built.configure()
    yield built
    built.configure()


def test_the_definition(library: HostKernels, case: AttentionCase) -> None:
    for seed, landing in SCHEDULES:
        library.configure(seed=seed, landing=landing)
        ATTENTION.run(library, case)


def test_these_cases_are_their_own(library: HostKernels, case: AttentionCase) -> None:
    """No other kernel of these calls needs as much shared memory."""
    library.configure(shared_limit=LITTLE_SHARED_MEMORY)
    with pytest.raises(AssertionError, match=r"kernel hopper_(latent|block|attention)"):
        ATTENTION.compute(library, case)


SANITIZED = {"asan": [(-1, EAGER), (5, RANDOM)], "tsan": [(0, EAGER)]}
SANITIZED_COST = 2 * 10**7


@pytest.mark.slow
def test_nothing_is_reported(sanitizer: str, pytestconfig: pytest.Config) -> None:
    """To ThreadSanitizer named barriers and mbarriers alone order the warps, and loads beside them."""
    every = pytestconfig.getoption("--all-cases")
    cases = [str(case) for case in (ALL if every else CASES) if every or case.cost < SANITIZED_COST]
    schedules = SCHEDULES if every else SANITIZED[sanitizer]
    result = run_cases(
        build_library(sanitizer, hopper=True), sanitizer, "attention", cases=cases, schedules=schedules,
        timeout_s=3600 if every else 600,
    )  # fmt: skip
    assert result.returncode == 0, f"{result.stdout[-500:]}{result.stderr[-6000:]}"
    assert len(result.stdout.splitlines()) == len(schedules) * len(cases)
