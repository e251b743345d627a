"""This machine's GPUs, asked of the CUDA driver itself: needs no CUDA package, and no GPU is an answer."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU.

    Attributes:
        name: As the driver calls it.
        sm: Compute capability, 89 for 8.9.
        memory: Bytes.
    """

    name: str
    sm: int
    memory: int


@dataclass(frozen=True, kw_only=True)
class CudaDriver:
    """What the driver says.

    Attributes:
        version: CUDA version that the driver supports, such as "13.0"; None without a driver.
        gpus: The GPUs that it can use.
        error: Why there are none; empty where there are.
    """

    version: str | None
    gpus: tuple[Gpu, ...]
    error: str = ""


# The oldest driver for a CUDA major release: CUDA's release notes, "Minimum Required Driver Version for CUDA
# Minor Version Compatibility".
_OLDEST_DRIVERS = {12: 525, 13: 580}


def driver_problem(runtime: str, driver: CudaDriver) -> str | None:
    """Why code with a CUDA runtime in it does not run with a driver; None where it does, or there is none.

    Args:
        runtime: Version of the runtime, as its compiler's: "13.0.88".
        driver: What the driver says.
    """
    majors = [version.partition(".")[0] for version in (runtime, driver.version or "")]
    if not all(major.isdecimal() for major in majors):
        return None
    major, supported = map(int, majors)
    if supported >= major:
        return None
    release = f" ({_OLDEST_DRIVERS[major]} or newer)" if major in _OLDEST_DRIVERS else ""
    return (
        f"its CUDA runtime is {runtime}, and the driver is for CUDA {driver.version}: install a driver for"
        f" CUDA {major}{release}, or build it with nvcc {supported}"
    )


def cuda_driver() -> CudaDriver:
    """Asks the driver through libcuda.so.1, without creating a context on any GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return CudaDriver(version=None, gpus=(), error="no NVIDIA driver (libcuda.so.1 not found)")
    status = cuda.cuInit(0)
    number, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(number))
    version = f"{number.value // 1000}.{number.value % 1000 // 10}" if number.value else None
    if status or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return CudaDriver(version=version, gpus=(), error=f"the driver finds no usable GPU (status {status})")
    return CudaDriver(version=version, gpus=tuple(_gpu(cuda, index) for index in range(count.value)))


def compute_capabilities() -> tuple[int, ...]:
    """This machine's GPUs as the driver counts them, 89 for 8.9; empty without one."""
    return tuple(gpu.sm for gpu in cuda_driver().gpus)


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return Gpu(
        name=name.value.decode(errors="replace"), sm=10 * major.value + minor.value, memory=memory.value
    )
