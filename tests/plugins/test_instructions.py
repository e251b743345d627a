"""What the kernels' machine code has: FP8 instructions by architecture, and cheap copies."""

from __future__ import annotations

import subprocess
from itertools import groupby
from pathlib import Path

import pytest
from harness.compile import PLUGINS
from harness.machine_code import Instruction, loops, machine_code

from r1trt.plugin_checks.bench.predicted import instructions
from r1trt.plugin_tools.targets import (
    FP8_INSTRUCTIONS,
    HOPPER_FLAGS,
    HOPPER_FP8_INSTRUCTION,
    HOPPER_SM,
    NVCC_OPTIONS,
    TARGETS,
)
from r1trt.plugin_tools.toolchain import toolchain_from_machine

MOE, ATTENTION = PLUGINS / "kernels" / "dynamic_moe", PLUGINS / "kernels" / "hla_attention"
PROBE = Path(__file__).parent / "loader_probe.cu"
BF16, HEADS_OF_128 = "__nv_bfloat16", "__nv_bfloat16Li128ELi128E"  # in mangled names
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


@pytest.fixture(scope="module")
def hopper_attention(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[Instruction]]]:
    """Code by source."""
    folder = tmp_path_factory.mktemp("hopper")
    return {
        name: code_of(ATTENTION / f"{name}.cu", HOPPER_SM, folder, *HOPPER_FLAGS)
        for name in ("hopper_block", "hopper_full", "hopper_latent")
    }


@pytest.mark.slow
def test_hoppers_own_products_are_on_its_own_cores(
    tmp_path: Path, hopper_attention: dict[str, dict[str, list[Instruction]]]
) -> None:
    code = code_of(MOE / "hopper_gemm.cu", HOPPER_SM, tmp_path, *HOPPER_FLAGS)
    assert tensor_cores(code) == {"HGMMA", HOPPER_FP8_INSTRUCTION}
    assert all(tensor_cores(functions) == {"HGMMA"} for functions in hopper_attention.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "kernel", "step"),
    [
        ("hopper_full", HEADS_OF_128, instructions.FULL_BRANCH),
        ("hopper_block", HEADS_OF_128, instructions.BLOCK_BRANCH),
        ("hopper_latent", BF16, instructions.LATENT),
    ],
)
def test_predictions_count_what_a_step_has(
    hopper_attention: dict[str, dict[str, list[Instruction]]],
    source: str,
    kernel: str,
    step: instructions.Loop,
) -> None:
    """A step is the shortest loop with all of its products; what it jumps over is not counted."""
    (code,) = (code for name, code in hopper_attention[source].items() if kernel in name)
    steps = [loop for loop in loops(code) if count_of(loop, "HGMMA") == step.products]
    loop = min(steps, key=len)
    assert count_of(loop, "MUFU.EX2") == step.exponentials
    assert step.instructions <= len(loop)


def count_of(code: list[Instruction], name: str) -> int:
    return sum(instruction.name.startswith(name) for instruction in code)


@pytest.mark.slow
def test_scores_of_latents_follow_values_without_a_wait_between(
    hopper_attention: dict[str, dict[str, list[Instruction]]],
) -> None:
    """While values are multiplied by the weights that a warpgroup was given, its own tile's keys may land."""
    for name, code in hopper_attention["hopper_latent"].items():
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
        copying = [loop for loop in loops(code) if count_of(loop, COPY)]
        assert copying, name
        for loop in copying:
            copies = count_of(loop, COPY)
            assert len(loop) / copies <= MOST_INSTRUCTIONS_A_COPY, f"{name}: {len(loop)} for {copies} copies"
