"""What the kernels are compiled for, and with which flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from r1trt.arch import ARCHITECTURES, GPU_ARCHITECTURES
from r1trt.errors import BuildError
from r1trt.plugin_tools.objects import Compilation, Compiled
from r1trt.plugin_tools.toolchain import Toolchain

# What is compiled for each SM. Code for SM100 and SM120 also runs on SM103 and SM121; Hopper's own
# instructions need the `a`, and code with it runs on SM90 alone.
TARGETS: Mapping[int, str] = MappingProxyType(
    {80: "80", 86: "86", 89: "89", 90: "90a", 100: "100", 120: "120"}
)
NVCC_OPTIONS = "nvcc.options"
# Sources of Hopper's own instructions, which no other SM has.
HOPPER_SOURCES = (
    "hopper_block.cu",
    "hopper_full.cu",
    "hopper_gemm.cu",
    "hopper_latent.cu",
)
HOPPER_SM = 90
HOPPER_FLAGS = ("-DR1TRT_HOPPER_KERNELS",)
# The tensor-core instruction that products of FP8 by FP8 are made of, in each SM's machine code. HMMA is that
# of 16 bits: nvcc widens both operands to FP16 in front of it, where the SM has no FP8 instruction of that
# form (SM90 and SM100 multiply FP8 by wgmma and tcgen05 alone). SM80 and SM86 never get such products.
FP8_INSTRUCTIONS: Mapping[int, str] = MappingProxyType({89: "QMMA", 90: "HMMA", 100: "HMMA", 120: "QMMA"})
HOPPER_FP8_INSTRUCTION = "QGMMA"
"""Of `hopper_gemm.cu`, on SM90, from a row an expert on average on."""
# ptxas reports, as mere information, that it gave up overlapping Hopper's matrix products: C7510, C7512,
# C7520, by the reason.
SERIALIZED_WGMMA = "wgmma.mma_async instructions are serialized"


def target_sm(sm: int) -> int:
    """The SM whose code runs on a GPU: its own, or an older one of its generation.

    Raises:
        BuildError: There is none.
    """
    built = [target for target in TARGETS if target <= sm and target // 10 == sm // 10]
    if not built:
        known = ", ".join(f"SM{target}" for target in TARGETS)
        raise BuildError(
            "The plugins are not built for this GPU.", where="GPU", found=f"SM{sm}", expected=known
        )
    return max(built)


def arch_of(sm: int) -> str:
    """The `--arch` of a compute capability.

    Raises:
        BuildError: The plugins are not built for it.
    """
    target = target_sm(sm)
    return next(name for name in GPU_ARCHITECTURES if target in ARCHITECTURES[name].sms)


def cuda_compilation(
    chain: Toolchain,
    source: Path,
    sources: Path,
    sms: Sequence[int],
    *,
    folders: Sequence[Path] = (),
) -> Compilation:
    """How nvcc compiles a CUDA source of the plugins.

    Args:
        chain: The toolchain.
        source: The file.
        sources: The plugins' folder.
        sms: Compute capabilities to make code for, of `TARGETS`.
        folders: Where further quoted includes are searched.
    """
    for_hopper = HOPPER_SM in sms and source.name in HOPPER_SOURCES
    targets = [TARGETS[HOPPER_SM]] if for_hopper else [TARGETS[sm] for sm in sms]
    codes = (f"-gencode=arch=compute_{target},code=sm_{target}" for target in targets)
    return Compilation(
        source=source,
        compiler=chain.nvcc,
        version=f"nvcc {chain.nvcc_version}, {chain.cxx_version}",
        flags=(
            *codes,
            *(HOPPER_FLAGS if for_hopper else ()),
            *("-ccbin", str(chain.cxx)),
        ),
        options=sources / NVCC_OPTIONS,
        folders=tuple(folders),
    )


def require_overlapping_products(compiled: Compiled) -> Compiled:
    """Refuses an object in which Hopper's matrix products wait for one another.

    Raises:
        BuildError: ptxas says that they do.
    """
    lines = [line for line in compiled.printed.splitlines() if SERIALIZED_WGMMA in line]
    if lines:
        raise BuildError(
            "Hopper's matrix products would run one after another.",
            where=compiled.source,
            found="\n".join(lines),
            fix="this is a defect of the kernel with this compiler: try another nvcc",
        )
    return compiled
