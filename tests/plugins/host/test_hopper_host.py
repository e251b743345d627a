"""The host layer's mbarriers, TMA and wgmma against plain loops, and against planted defects."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from kernels.build import SANITIZERS, build_program, sanitizer_environment

SOURCE = Path(__file__).parent / "hopper_defects.cu"
GOOD = (
    "boxes", "boxes_of_stacks", "tensor_maps", "pipeline_bf16", "pipeline_fp16", "pipeline_e4m3", "rows_bf16",
    "rows_fp16", "rows_cleared", "named_barrier",
)  # fmt: skip
NO_SUCH_CASE = 2
ENDLESS = "a phase of an mbarrier that never ends"
# A defect, the build that finds it, when copies land then, and what the report says; no words: wrong numbers.
DEFECTS = [
    ("no_arrival", "plain", "late", "a named barrier"),
    ("early_arrival", "tsan", "eager", "data race"),
    ("no_proxy_fence", "tsan", "eager", "data race"),
    ("no_proxy_fence", "tsan", "late", "data race"),
    ("no_full_wait", "plain", "late", "more arrivals"),
    ("no_full_wait", "tsan", "eager", "data race"),
    ("no_empty_wait", "plain", "late", "more arrivals"),
    ("no_empty_wait", "plain", "eager", ENDLESS),
    ("wrong_parity", "plain", "late", ENDLESS),
    ("few_bytes", "plain", "late", "more bytes landed"),
    ("few_bytes", "plain", "eager", "more bytes landed"),
    ("many_bytes", "plain", "late", "lacks 0 arrivals, 128 bytes"),
    ("early_release", "plain", "eager", ""),
    ("early_release", "tsan", "late", "data race"),
    ("no_product_wait", "plain", "late", "products that it never waited for"),
    ("reads_too_soon", "plain", "late", ""),
    ("reads_too_soon", "plain", "eager", ""),
    ("no_fence", "plain", "late", "no wgmma.fence"),
    ("not_swizzled", "plain", "late", "another swizzle"),
    ("wrong_offset", "plain", "late", ""),
    ("wrong_rows", "plain", "late", ""),
    ("two_arrivals", "plain", "late", ENDLESS),
    ("no_init", "plain", "late", "before mbarrier.init"),
    ("overwritten", "plain", "late", "somebody wrote over it"),
    ("lane_descriptor", "plain", "late", "different descriptors"),
]


def run(names: Sequence[str], sanitizer: str, seed: int, landing: str) -> subprocess.CompletedProcess[str]:
    environment = sanitizer_environment(sanitizer, preload=False)
    environment |= {"SIMT_SEED": str(seed), "SIMT_COPY": landing}
    program = build_program(SOURCE, sanitizer)
    return subprocess.run(
        [str(program), *names], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("seed", "landing"), [(0, "late"), (-1, "eager"), (3, "random")])
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_plain_loops_agree(sanitizer: str, seed: int, landing: str) -> None:
    result = run(GOOD, sanitizer, seed, landing)
    assert result.stdout.splitlines() == [f"{name} good" for name in GOOD], result.stderr


@pytest.mark.parametrize(("name", "sanitizer", "landing", "words"), DEFECTS)
def test_defects_are_found(name: str, sanitizer: str, landing: str, words: str) -> None:
    result = run([name], sanitizer, 0, landing)
    assert result.returncode not in (0, NO_SUCH_CASE)
    assert "good" not in result.stdout
    assert words in result.stderr
    if not words:
        assert result.stdout == f"{name} wrong\n"
