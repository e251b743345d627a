"""Hopper's own grouped product, run on the CPU by the host layer's mbarriers, TMA and wgmma, against FP64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernels.build import build_library
from kernels.library import EAGER, LATE, RANDOM, HostKernels
from kernels.run_cases import run_cases

from r1trt.plugin_checks.cases.arrays import FLOAT8_E4M3, FLOAT16
from r1trt.plugin_checks.cases.moe_cases import BLOCK_128, PER_CHANNEL, SEPARATE, MoeCase
from r1trt.plugin_checks.cases.operators import OPERATORS

MOE = OPERATORS["moe"]
SCHEDULES = [(0, LATE), (-1, EAGER), (5, RANDOM)]
# Every type, layout of scales and kind of routing; the others multiply by the same tiles.
EXISTING = (
    "batch=3,seq=20,shared_width=32,lengths=(20,0,7)",
    "seq=70,top_k=1,data_type=1,routing=one_expert",
    "seq=21,hidden=208,experts=6,method=2,n_group=3",
    "batch=3,seq=20,width=272,data_type=1,swiglu=2,lengths=(20,0,7)",
    "seq=40,experts=16,parts=5,shared_width=48,top_k=6",
    "hidden=272,width=144,shared_width=48,weight_type=3",
    "hidden=272,width=144,shared_width=48,weight_type=3,static=True",
    "seq=12,hidden=144,experts=4,width=272,data_type=1,weight_type=3,layout=1",
    "seq=60,hidden=272,parts=3,width=128,shared_width=128,weight_type=3,layout=2",
)
# Above 512 rows an expert: the tiles of 128 rows.
MANY_ROWS = [
    MoeCase(seq=1100, experts=2, top_k=1, hidden=144, width=80),
    MoeCase(seq=1100, experts=2, top_k=1, hidden=144, width=80, data_type=FLOAT16),
    MoeCase(seq=1100, experts=2, top_k=1, hidden=272, width=144, weight_type=FLOAT8_E4M3, layout=PER_CHANNEL,
            swiglu=SEPARATE),
    MoeCase(seq=1100, experts=2, top_k=1, hidden=144, width=128, weight_type=FLOAT8_E4M3, layout=BLOCK_128,
            swiglu=SEPARATE),
]  # fmt: skip
CASES = [*(case for case in MOE.cases if str(case) in EXISTING), *MANY_ROWS]
assert len(CASES) == len(EXISTING) + len(MANY_ROWS)
LITTLE_SHARED_MEMORY = 99 * 1024


@pytest.fixture(scope="module")
def built() -> HostKernels:
    return HostKernels(build_library(hopper=True))


@pytest.fixture
def library(built: HostKernels) -> Iterator[HostKernels]:
    built.configure()
    yield built
    built.configure()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_definition(library: HostKernels, case: MoeCase) -> None:
    for seed, landing in SCHEDULES:
        library.configure(seed=seed, landing=landing)
        MOE.run(library, case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_these_cases_are_its_own(library: HostKernels, case: MoeCase) -> None:
    """Its ring of stages needs more shared memory than any other kernel of the layer."""
    library.configure(shared_limit=LITTLE_SHARED_MEMORY)
    with pytest.raises(AssertionError, match="hopperProduct"):
        MOE.compute(library, case)


# A tile of 16 bits and one of E4M3; the others, of many rows, take minutes.
SANITIZED = (
    "seq=21,hidden=208,experts=6,method=2,n_group=3",
    "seq=12,hidden=144,experts=4,width=272,data_type=1,weight_type=3,layout=1",
)


@pytest.mark.slow
@pytest.mark.parametrize(("sanitizer", "schedule"), [("asan", (5, RANDOM)), ("tsan", (0, EAGER))])
def test_nothing_is_reported(sanitizer: str, schedule: tuple[int, int], pytestconfig: pytest.Config) -> None:
    cases = EXISTING if pytestconfig.getoption("--all-cases") else SANITIZED
    result = run_cases(
        build_library(sanitizer, hopper=True), sanitizer, "moe", cases=cases, schedules=[schedule]
    )
    assert result.returncode == 0, f"{result.stdout[-500:]}{result.stderr[-6000:]}"
    assert len(result.stdout.splitlines()) == len(cases)
