"""Device memory through NVIDIA's `cuda-python`, the few calls that running an engine needs."""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from r1trt.errors import UnavailableError
from r1trt.runtime.session import SessionError


def cuda_runtime() -> Any:
    """Import the CUDA runtime and check that a GPU answers.

    Raises:
        UnavailableError: `cuda-python` is not installed, or there is no driver or GPU.
    """
    # Asked first: without a driver, installing cuda-python would not help.
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise _no_gpu("no NVIDIA driver") from error
    try:
        cudart = importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise UnavailableError(
            "Running a TensorRT engine needs cuda-python, which is not installed.",
            fix="pip install 'cuda-python>=13', then run the command again",
        ) from error
    status, count = cudart.cudaGetDeviceCount()
    if int(status) != 0 or not count:
        raise _no_gpu(getattr(status, "name", status))
    return cudart


def _no_gpu(found: object) -> UnavailableError:
    return UnavailableError(
        "Running a TensorRT engine needs an NVIDIA GPU, and none answers here.",
        found=found,
        fix="copy the build directory to a machine with the engine's GPU, and run the same command there",
    )


def compute_capability(cudart: Any) -> int:
    """The current GPU's compute capability as the SM number, for instance 89."""
    attributes = cudart.cudaDeviceAttr
    major = checked(cudart.cudaDeviceGetAttribute(attributes.cudaDevAttrComputeCapabilityMajor, 0))
    minor = checked(cudart.cudaDeviceGetAttribute(attributes.cudaDevAttrComputeCapabilityMinor, 0))
    return int(major) * 10 + int(minor)


def checked(result: tuple[Any, ...]) -> Any:
    """Returns a CUDA call's value, None where it has none, a tuple where it has several.

    Raises:
        SessionError: The call failed.
    """
    status, *values = result
    if int(status) != 0:
        raise SessionError("A CUDA call failed.", found=getattr(status, "name", status))
    return tuple(values) if len(values) > 1 else next(iter(values), None)


class DeviceBuffer:
    """Bytes on the GPU.

    Args:
        cudart: The CUDA runtime's module.
        size: Bytes.
    """

    def __init__(self, cudart: Any, size: int) -> None:
        self._cudart = cudart
        self.size = size
        # TensorRT refuses null addresses, also for tensors without elements.
        self.address = int(checked(cudart.cudaMalloc(max(size, 1))))

    def clear(self, stream: Any) -> None:
        """Sets every byte to zero."""
        checked(self._cudart.cudaMemsetAsync(self.address, 0, self.size, stream))

    def upload(self, array: npt.NDArray[Any], stream: Any, offset: int = 0) -> None:
        """Copies an array to `offset`. The caller keeps it alive until the stream is synchronized."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        checked(
            self._cudart.cudaMemcpyAsync(self.address + offset, array.ctypes.data, array.nbytes, kind, stream)
        )

    def download(self, shape: tuple[int, ...], stream: Any) -> npt.NDArray[np.float32]:
        """Copies FP32 numbers from here, and waits for them."""
        array = np.empty(shape, np.float32)
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        checked(self._cudart.cudaMemcpyAsync(array.ctypes.data, self.address, array.nbytes, kind, stream))
        checked(self._cudart.cudaStreamSynchronize(stream))
        return array

    def free(self) -> None:
        """Gives the memory back."""
        if self.address:
            checked(self._cudart.cudaFree(self.address))
            self.address = 0
