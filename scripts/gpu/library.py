"""The kernels' launch functions behind `ctypes`, on the GPU's memory or on the CPU's.

Takes the place of the tests' own library: their cases hand over arrays of the CPU's, which are copied to
buffers of exactly the same sizes, and back.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from kernels.params import ALL_PARAMS, Params

from gpu.extents import Path as FieldPath
from gpu.extents import extents, pointer, set_pointer
from gpu.memory import CudaMemory, HostMemory, Memory


class OperatorLibrary:
    """A loaded library of launch functions.

    Args:
        path: What `gpu.build` made, or the tests' library for the CPU.
        on_gpu: Which of them it is.

    Raises:
        RuntimeError: Its structs are not those of the headers here.
    """

    def __init__(self, path: Path, *, on_gpu: bool) -> None:
        self.library = ctypes.CDLL(str(path))
        self.memory: Memory = CudaMemory(self.library) if on_gpu else HostMemory()
        for params in ALL_PARAMS:
            self._function("workspace", params).restype = ctypes.c_size_t
            size = int(self._function("sizeof", params)())
            if size != ctypes.sizeof(params):
                raise RuntimeError(f"{params.operator}: {size} bytes in C++, {ctypes.sizeof(params)} here")

    def _function(self, verb: str, params: Params | type[Params]) -> Any:
        return getattr(self.library, f"r1trt_{verb}_{params.operator}")

    def params(self, kind: type[Params], **fields: Any) -> Any:
        """Parameters with C++'s own defaults for what is not named."""
        params = kind()
        self._function("defaults", kind)(ctypes.byref(params))
        names = [field[0] for field in kind._fields_]
        for name, value in fields.items():
            if name not in names:
                raise AttributeError(f"{kind.operator} has no parameter {name}")
            setattr(params, name, value)
        return params

    def workspace_size(self, params: Params) -> int:
        """Bytes of workspace."""
        return int(self._function("workspace", params)(ctypes.byref(params)))

    def enqueue(self, params: Params, stream: int) -> None:
        """Enqueues on addresses that the kernels can reach.

        Raises:
            RuntimeError: The launch function refuses.
        """
        status = int(self._function("launch", params)(ctypes.byref(params), ctypes.c_void_p(stream)))
        if status:
            raise RuntimeError(f"{params.operator}: cudaError {status}")

    def check_launch(self, params: Params) -> None:
        """Runs on copies of the arrays and copies all of them back; any error is an AssertionError."""
        memory, call = self.memory, type(params).from_buffer_copy(params)
        sizes = extents(params)
        buffers = self._copied(params, sizes)
        for path in sizes:
            set_pointer(call, path, buffers[pointer(params, path) or 0][0])
        workspace = 0
        try:
            if hasattr(call, "workspace"):
                call.workspace_size = self.workspace_size(call)
                call.workspace = workspace = memory.allocate(call.workspace_size)
            self.enqueue(call, memory.stream)
            memory.synchronize()
            for address, (buffer, size) in buffers.items():
                memory.read(buffer, address, size)
        except RuntimeError as error:
            raise AssertionError(str(error)) from error
        finally:
            for buffer in [*(buffer for buffer, _ in buffers.values()), *([workspace] if workspace else [])]:
                memory.free(buffer)

    def _copied(self, params: Params, sizes: dict[FieldPath, int]) -> dict[int, tuple[int, int]]:
        """Address and size of a copy, by the CPU's address: tensors that are one stay one."""
        largest: dict[int, int] = {}
        for path, size in sizes.items():
            address = pointer(params, path) or 0
            largest[address] = max(size, largest.get(address, 0))
        buffers = {}
        for address, size in largest.items():
            buffers[address] = self.memory.allocate(size), size
            self.memory.write(buffers[address][0], address, size)
        return buffers
