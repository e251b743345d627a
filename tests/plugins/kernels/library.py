"""The kernels, compiled for the CPU, behind `ctypes`."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from kernels.arrays import aligned
from kernels.params import ALL_PARAMS, Params

SHARED_LIMIT = 227 * 1024
LATE, EAGER, RANDOM = range(3)  # when asynchronous copies land


class KernelLibrary:
    """A loaded library.

    Args:
        path: What `build_library` returned.
    """

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.simt_last_error.restype = ctypes.c_char_p
        for params in ALL_PARAMS:
            self._function(params.operator, "workspace").restype = ctypes.c_size_t
            size = int(self._function(params.operator, "sizeof")())
            if size != ctypes.sizeof(params):
                raise RuntimeError(f"{params.operator}: {size} bytes in C++, {ctypes.sizeof(params)} here")

    def configure(self, *, seed: int = 0, landing: int = LATE, shared_limit: int = SHARED_LIMIT) -> None:
        """Sets the schedule of the launches that follow.

        Args:
            seed: Threads and blocks run in order at 0, in reverse below it, at random above it.
            landing: When asynchronous copies write: `LATE`, `EAGER` or `RANDOM`.
            shared_limit: Most shared memory of a block, in bytes.
        """
        self.library.simt_configure(ctypes.c_long(seed), landing, shared_limit)

    def params(self, kind: type[Params], **fields: Any) -> Any:
        """Parameters with C++'s own defaults for what is not named."""
        params = kind()
        self._function(kind.operator, "defaults")(ctypes.byref(params))
        names = [field[0] for field in kind._fields_]
        for name, value in fields.items():
            if name not in names:
                raise AttributeError(f"{kind.operator} has no parameter {name}")
            setattr(params, name, value)
        return params

    def _function(self, operator: str, verb: str) -> Any:
        return getattr(self.library, f"r1trt_{verb}_{operator}")

    def workspace_size(self, params: Params) -> int:
        """Bytes of workspace."""
        return int(self._function(params.operator, "workspace")(ctypes.byref(params)))

    def launch(self, params: Params) -> int:
        """Runs to the end, in a workspace of exactly the size asked for; returns the CUDA error code."""
        workspace = None
        if hasattr(params, "workspace") and not params.workspace:
            workspace = aligned((self.workspace_size(params),), np.uint8)
            workspace.fill(0xFF)
            params.workspace, params.workspace_size = workspace.ctypes.data, workspace.size
        error = int(self._function(params.operator, "launch")(ctypes.byref(params)))
        if workspace is not None:
            params.workspace = None
        return error

    def check_launch(self, params: Params) -> None:
        """Runs; any error is an AssertionError with the host layer's report."""
        error = self.launch(params)
        assert error == 0, f"cudaError {error}: {self.library.simt_last_error().decode()}"
