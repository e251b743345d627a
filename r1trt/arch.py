"""The `--arch` table: what each GPU architecture is, can do, and can be built for without its GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from r1trt.errors import ConfigError, PlanError

BuildPrecision = Literal["fp8", "int8", "int4", "bf16", "fp32"]
Backend = Literal["tensorrt", "tensorrt-rtx", "onnxruntime"]


@dataclass(frozen=True, kw_only=True)
class Library:
    """What builds and runs a backend's engines.

    Attributes:
        module: Name to import.
        package: Distribution that brings it.
    """

    module: str
    package: str


LIBRARIES: Mapping[Backend, Library] = MappingProxyType(
    {
        "tensorrt": Library(module="tensorrt", package="tensorrt-cu13"),
        "tensorrt-rtx": Library(module="tensorrt_rtx", package="tensorrt-rtx-cu13"),
        "onnxruntime": Library(module="onnxruntime", package="onnxruntime"),
    }
)

# Builders refuse FP8 below it: there are no FP8 tensor cores, and nothing emulates them.
FP8_MIN_SM = 89


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One `--arch`.

    Attributes:
        name: The option's value.
        sms: Compute capabilities that an engine for it is built for, as in "SM89"; empty for `cpu`.
        offline_sms: Those that TensorRT-RTX builds for on a machine without the GPU.
        fp8: Whether FP8 plans can be built; on `cpu` their arithmetic is simulated.
        default_precision: What a build uses when it is not told.
        fp8_reason: Why FP8 is refused; empty where it is not.
    """

    name: str
    sms: tuple[int, ...]
    offline_sms: tuple[int, ...]
    fp8: bool
    default_precision: BuildPrecision
    fp8_reason: str = ""

    def __post_init__(self) -> None:
        if not set(self.offline_sms) <= set(self.sms):
            raise ConfigError(
                "offline_sms are some of sms", where=self.name, found=self.offline_sms, expected=self.sms
            )
        if self.fp8 == bool(self.fp8_reason):
            raise ConfigError("an architecture either has FP8 or a reason why not", where=self.name)

    @property
    def backend(self) -> Backend:
        """What builds for it where nothing else is asked for."""
        if not self.sms:
            return "onnxruntime"
        return "tensorrt-rtx" if self.offline_sms else "tensorrt"


_ALL = (
    Architecture(
        name="ampere",
        sms=(80, 86),
        offline_sms=(80, 86),
        fp8=False,
        default_precision="bf16",
        fp8_reason=(
            f"SM80 and SM86 have no FP8 tensor cores, and TensorRT refuses FP8 graphs below SM{FP8_MIN_SM}"
        ),
    ),
    Architecture(name="ada", sms=(89,), offline_sms=(89,), fp8=True, default_precision="fp8"),
    Architecture(name="hopper", sms=(90,), offline_sms=(), fp8=True, default_precision="fp8"),
    Architecture(
        name="blackwell",
        sms=(100, 103, 120, 121),
        # SM121 is accepted by TensorRT-RTX too, but an SM120 engine is what such a GPU's users ask for.
        offline_sms=(120,),
        fp8=True,
        default_precision="fp8",
    ),
    Architecture(
        name="cpu",
        sms=(),
        offline_sms=(),
        fp8=True,
        default_precision="fp32",
    ),
)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({item.name: item for item in _ALL})
GPU_ARCHITECTURES = tuple(item.name for item in _ALL if item.sms)


def architecture(name: str) -> Architecture:
    """The architecture called `name`.

    Raises:
        ConfigError: There is none.
    """
    found = ARCHITECTURES.get(name)
    if found is None:
        raise ConfigError("Unknown architecture.", found=name, expected=" | ".join(ARCHITECTURES))
    return found


def require_precision(arch: Architecture, precision: BuildPrecision) -> None:
    """Refuse a precision that the architecture cannot compute in.

    Raises:
        PlanError: Says what it lacks and what to use.
    """
    if precision == "int4" and arch.sms:
        raise PlanError(
            f"--arch {arch.name} cannot run INT4.",
            found="TensorRT-RTX takes INT4 weights with BF16 scales alone, and full TensorRT was not asked",
            expected="cpu",
            fix=f"build with --arch {arch.name} --int8, or for cpu",
        )
    if precision == "fp8" and not arch.fp8:
        raise PlanError(
            f"--arch {arch.name} cannot run FP8.",
            found=arch.fp8_reason,
            expected="FP8 tensor cores: ada, hopper or blackwell",
            fix=f"build with --arch {arch.name} --bf16, or for one of those architectures",
        )
