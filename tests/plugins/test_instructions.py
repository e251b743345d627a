"""What the kernels' machine code has: FP8 instructions by architecture, and cheap copies."""

from __future__ import annotations

import subprocess
from itertools import groupby
from pathlib import Path

import pytest
from harness.compile import PLUGINS
from harness.machine_code import Instruction, loops, machine_code

from r1trt.plugin_tools.targets import (
    FP8_INSTRUCTIONS,
    HOPPER_FLAGS,
    HOPPER_FP8_INSTRUCTION,
    HOPPER_SM,
    NVCC_OPTIONS,
    TARGETS,
)
from r1trt.plugin_tools.toolchain import toolchain_from_machine

MOE, PROBE = PLUGINS / "kernels" / "dynamic_moe", Path(__file__).parent / "loader_probe.cu"
TENSOR_CORES = ("HMMA", "QMMA", "HGMMA", "QGMMA")
WAIT = "WARPGROUP.DEPBAR"
COPY, MOST_INSTRUCTIONS_A_COPY = "LDGSTS", 12


def code_of(source: Path, sm: int, folder: Path, *flags: str) -> dict[str, list[Instruction]]:
    chain, cubin = toolchain_from_machine(), folder / f"{source.stem}.{sm}.cubin"
    command = [
        chain.nvcc, f"-gencode=arch=compute_{TARGETS[sm]},code=sm_{TARGETS[sm]}", *flags,
        "--options-file", PLUGINS / NVCC_OPTIONS, "-ccbin", chain.cxx, "-I", PLUGINS / "kernels",
        "-cubin", "-o", cubin, source,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return machine_code(cubin)


def tensor_cores(code: dict[str, list[Instruction]]) -> set[str]:
    names = {instruction.name.partition(".")[0] for function in code.values() for instruction in function}
    return names & set(TENSOR_CORES)


@pytest.mark.slow
@pytest.mark.parametrize("sm", FP8_INSTRUCTIONS)
def test_fp8_products_are_what_the_table_says(sm: int, tmp_path: Path) -> None:
    assert tensor_cores(code_of(MOE / "gemm_fp8.cu", sm, tmp_path)) == {FP8_INSTRUCTIONS[sm]}


@pytest.mark.slow
def test_hoppers_own_products_are_on_its_own_cores(tmp_path: Path) -> None:
    code = code_of(MOE / "hopper_gemm.cu", HOPPER_SM, tmp_path, *HOPPER_FLAGS)
    assert tensor_cores(code) == {"HGMMA", HOPPER_FP8_INSTRUCTION}
    for name in ("hopper_block.cu", "hopper_full.cu", "hopper_latent.cu"):
        attention = PLUGINS / "kernels" / "hla_attention" / name
        assert tensor_cores(code_of(attention, HOPPER_SM, tmp_path, *HOPPER_FLAGS)) == {"HGMMA"}


@pytest.mark.slow
def test_scores_of_latents_follow_values_without_a_wait_between(tmp_path: Path) -> None:
    """While values are multiplied by the weights that a warpgroup was given, its own tile's keys may land."""
    source = PLUGINS / "kernels" / "hla_attention" / "hopper_latent.cu"
    for name, code in code_of(source, HOPPER_SM, tmp_path, *HOPPER_FLAGS).items():
        waits = [i for i, instruction in enumerate(code) if instruction.name.startswith(WAIT)]
        (values,) = (i for i in waits if code[i].text.endswith("0x1"))
        before = max(i for i in waits if i < values)
        products = [instruction.name for instruction in code[before:values] if "HGMMA" in instruction.name]
        shapes = [shape for shape, _ in groupby(products, key=lambda product: product.split(".")[1])]
        assert shapes == ["64x256x16", "64x64x16"], name


@pytest.mark.slow
@pytest.mark.parametrize("sm", [80, 89, 90, 120])
def test_copies_cost_few_instructions(sm: int, tmp_path: Path) -> None:
    for name, code in code_of(PROBE, sm, tmp_path).items():
        copying = [loop for loop in loops(code) if copies_of(loop)]
        assert copying, name
        for loop in copying:
            cost = len(loop) / copies_of(loop)
            assert cost <= MOST_INSTRUCTIONS_A_COPY, f"{name}: {len(loop)} for {copies_of(loop)} copies"


def copies_of(code: list[Instruction]) -> int:
    return sum(instruction.name.startswith(COPY) for instruction in code)
