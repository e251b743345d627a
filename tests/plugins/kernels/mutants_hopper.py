"""Defects of Hopper's own grouped product, which the cases find on the host layer."""

from __future__ import annotations

from kernels.build import Change
from kernels.library import LATE
from kernels.mutant import WRONG, Mutant, Schedules

SOURCE, TILE = "dynamic_moe/hopper_gemm.cu", "dynamic_moe/hopper_tile.cuh"
BF16 = "seq=21,hidden=208,experts=6,method=2,n_group=3"
FP8 = "hidden=272,width=144,shared_width=48,weight_type=3"


def planted(
    name: str,
    old: str,
    new: str,
    *cases: str,
    file: str = TILE,
    report: str = WRONG,
    schedules: Schedules = ((0, LATE),),
) -> Mutant:
    """A change of the product."""
    change = Change(file=file, old=old, new=new, sources=(SOURCE,))
    return Mutant(name=name, change=change, cases=cases, report=report, schedules=schedules, hopper=True)


MUTANTS = [
    planted(
        "the product does not wait for its stage",
        "wait(&shared.full[place.stage], place.parity);\n    multiplyStage(",
        "multiplyStage(",
        BF16,
    ),
    planted(
        "the load waits for the wrong phase",
        "wait(&shared.empty[place.stage], place.parity ^ 1);",
        "wait(&shared.empty[place.stage], place.parity);",
        BF16,
        report="a phase of an mbarrier that never ends",
    ),
    planted(
        "sums are read before the last product",
        "waitProducts<0>();\n  holdRegisters(sum);",
        "holdRegisters(sum);",
        BF16,
        report="a thread ended with products",
    ),
    planted(
        "tiles lie without the swizzle",
        "CU_TENSOR_MAP_SWIZZLE_128B",
        "CU_TENSOR_MAP_SWIZZLE_NONE",
        BF16,
        FP8,
        file="common/tensor_map.h",
    ),
    planted(
        "a descriptor's groups of rows are too near",
        "(kTileAlignment >> 4) << 32;\n  constexpr uint64_t kUnused",
        "(kTileAlignment >> 5) << 32;\n  constexpr uint64_t kUnused",
        BF16,
        FP8,
        file="common/hopper.cuh",
    ),
]  # fmt: skip
