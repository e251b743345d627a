"""The host layer against planted defects: each must be reported, and its correct twin must not."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from kernels.build import SANITIZERS, build_program, sanitizer_environment

GOOD = (
    "barrier", "syncwarp", "shared_in_bounds", "global_in_bounds", "initialized", "aligned", "atomic_add",
    "last_block", "early_start", "pipeline", "mma_bf16", "mma_fp16", "mma_e4m3", "ldmatrix_transposed",
)  # fmt: skip
DEFECTIVE = Path(__file__).parent / "defects.cu"
NO_SUCH_CASE = 2
# A defect, the build that finds it, the schedule, and what the report says; no words: a wrong result.
DEFECTS = [
    ("no_barrier", "plain", 0, ""),
    ("no_barrier", "tsan", 0, "data race"),
    ("no_syncwarp", "tsan", 0, "data race"),
    ("divergent_barrier", "plain", 0, "__syncthreads"),
    ("two_barriers", "plain", 0, "different __syncthreads"),
    ("exit_before_barrier", "plain", 0, "exited"),
    ("shuffle_mask", "plain", 0, "deadlock"),
    ("shared_off_by_one", "asan", 0, "use-after-poison"),
    ("global_off_by_one", "asan", 0, "heap-buffer-overflow"),
    ("uninitialized", "plain", 0, ""),
    ("misaligned", "asan", 0, "misaligned address"),
    ("race_between_blocks", "tsan", 0, "data race"),
    ("no_ticket", "tsan", 0, "data race"),
    ("no_wait_for_the_grid", "plain", 0, "never waited for the kernel"),
    ("no_copy_wait", "plain", 0, ""),
    ("buffer_not_freed", "plain", 3, ""),
    ("buffer_not_freed", "tsan", 0, "data race"),
    ("wrong_lane_map", "plain", 0, ""),
]


def run(names: Sequence[str], sanitizer: str, seed: int) -> subprocess.CompletedProcess[str]:
    program = build_program(DEFECTIVE, sanitizer)
    environment = {**sanitizer_environment(sanitizer, preload=False), "SIMT_SEED": str(seed)}
    return subprocess.run(
        [str(program), *names], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("seed", [0, -1, 3])
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_correct_kernels_pass(sanitizer: str, seed: int) -> None:
    result = run(GOOD, sanitizer, seed)
    assert result.stdout.splitlines() == [f"{name} good" for name in GOOD], result.stderr


@pytest.mark.parametrize(("name", "sanitizer", "seed", "words"), DEFECTS)
def test_defects_are_found(name: str, sanitizer: str, seed: int, words: str) -> None:
    result = run([name], sanitizer, seed)
    assert result.returncode not in (0, NO_SUCH_CASE)
    assert "good" not in result.stdout
    assert words in result.stderr
    if not words:
        assert result.stdout == f"{name} wrong\n"
