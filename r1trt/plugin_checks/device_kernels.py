"""The kernels on the GPU's memory, or on memory of the CPU's in the GPU's place.

Cases hand over arrays of the CPU's, which are copied to buffers of exactly the same sizes, and back.
"""

from __future__ import annotations

from pathlib import Path

from r1trt.plugin_checks.cases.library import KernelLibrary
from r1trt.plugin_checks.cases.params import Params
from r1trt.plugin_checks.extents import FieldPath, extents, pointer, set_pointer
from r1trt.plugin_checks.memory import CudaMemory, HostMemory, Memory


class DeviceKernels(KernelLibrary):
    """The kernels of a GPU's library, or of the host layer's as if they were on a device.

    Args:
        path: What the stage `build` made.
        on_gpu: Which of them it is.

    Raises:
        RuntimeError: Its structs are not those of the headers here, or CUDA refuses.
    """

    def __init__(self, path: Path, *, on_gpu: bool) -> None:
        super().__init__(path)
        self.memory: Memory = CudaMemory(self.library) if on_gpu else HostMemory()

    def enqueue(self, params: Params, stream: int) -> None:
        """Enqueues on addresses that the kernels can reach.

        Raises:
            RuntimeError: The launch function refuses.
        """
        if status := self.launch_status(params, stream):
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
