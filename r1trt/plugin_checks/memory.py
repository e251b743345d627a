"""Memory that the kernels work on: the GPU's, or the CPU's for kernels that it executes."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from r1trt.plugin_checks.cases.arrays import aligned

POISON = 0xFF  # NaN in every floating-point type


class Memory(ABC):
    """Allocations, copies, and one stream.

    Attributes:
        stream: What kernels are enqueued on.
        captures: Whether `captured` records a graph rather than calling again.
    """

    stream: int = 0
    captures: bool = False

    @abstractmethod
    def allocate(self, size: int) -> int:
        """Address of new, poisoned memory of exactly this size."""

    @abstractmethod
    def free(self, address: int) -> None:
        """Gives memory back."""

    @abstractmethod
    def write(self, address: int, source: int, size: int) -> None:
        """Copies from the CPU's memory."""

    @abstractmethod
    def read(self, address: int, target: int, size: int) -> None:
        """Copies to the CPU's memory, after all that was enqueued."""

    @abstractmethod
    def poison(self, address: int, size: int) -> None:
        """Overwrites memory with NaN."""

    @abstractmethod
    def synchronize(self) -> None:
        """Waits for all that was enqueued; a kernel's error is a RuntimeError."""

    @abstractmethod
    def captured(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """What enqueues again all that `enqueue` enqueued, on the same addresses."""

    @property
    def answers(self) -> bool:
        """Whether it can still be used: an illegal access on a GPU ends a process's use of it."""
        try:
            self.synchronize()
        except RuntimeError:
            return False
        return True

    def upload(self, array: np.ndarray) -> int:
        """Address of a copy of an array."""
        address = self.allocate(array.nbytes)
        self.write(address, array.ctypes.data, array.nbytes)
        return address

    def download(self, address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A copy in an array."""
        array = np.empty(shape, dtype)
        self.read(address, array.ctypes.data, array.nbytes)
        return array


class HostMemory(Memory):
    """The CPU's, for kernels compiled with the SIMT host layer; a stream is the calling thread."""

    def __init__(self) -> None:
        self.arrays: dict[int, np.ndarray] = {}

    def allocate(self, size: int) -> int:
        """See Memory."""
        array = aligned((size,), np.uint8)
        array.fill(POISON)
        self.arrays[array.ctypes.data] = array
        return array.ctypes.data

    def free(self, address: int) -> None:
        """See Memory."""
        del self.arrays[address]

    def write(self, address: int, source: int, size: int) -> None:
        """See Memory."""
        ctypes.memmove(address, source, size)

    def read(self, address: int, target: int, size: int) -> None:
        """See Memory."""
        ctypes.memmove(target, address, size)

    def poison(self, address: int, size: int) -> None:
        """See Memory."""
        ctypes.memset(address, POISON, size)

    def synchronize(self) -> None:
        """See Memory."""

    def captured(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """See Memory; the CPU has no graphs, so this is the call itself."""
        return enqueue


class CudaMemory(Memory):
    """The first GPU's, by way of the CUDA runtime inside the kernels' library.

    Args:
        library: Of `gpu.build`.

    Raises:
        RuntimeError: The runtime refuses.
    """

    captures = True

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.library.r1trt_error_name.restype = ctypes.c_char_p
        stream = ctypes.c_void_p()
        self._call("stream_create", ctypes.byref(stream))
        self.stream = int(stream.value or 0)

    def _call(self, name: str, *arguments: Any) -> None:
        status = int(getattr(self.library, f"r1trt_{name}")(*arguments))
        if status:
            raise RuntimeError(f"{name}: {self.library.r1trt_error_name(status).decode()}")

    def allocate(self, size: int) -> int:
        """See Memory."""
        address = ctypes.c_void_p()
        self._call("allocate", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        self.poison(int(address.value or 0), max(size, 1))
        return int(address.value or 0)

    def free(self, address: int) -> None:
        """See Memory."""
        self._call("free", ctypes.c_void_p(address))

    def write(self, address: int, source: int, size: int) -> None:
        """See Memory."""
        self._call("copy", ctypes.c_void_p(address), ctypes.c_void_p(source), ctypes.c_size_t(size))

    def read(self, address: int, target: int, size: int) -> None:
        """See Memory."""
        self.synchronize()
        self._call("copy", ctypes.c_void_p(target), ctypes.c_void_p(address), ctypes.c_size_t(size))

    def poison(self, address: int, size: int) -> None:
        """See Memory."""
        self._call("fill", ctypes.c_void_p(address), ctypes.c_int(POISON), ctypes.c_size_t(size))

    def synchronize(self) -> None:
        """See Memory."""
        self._call("synchronize")

    def captured(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """See Memory. The graph lives as long as the process."""
        graph, stream = ctypes.c_void_p(), ctypes.c_void_p(self.stream)
        self._call("capture_begin", stream)
        try:
            enqueue()
        finally:
            self._call("capture_end", stream, ctypes.byref(graph))
        return lambda: self._call("graph_launch", graph, stream)
