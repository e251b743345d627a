"""The kernels as the host layer runs them, in a schedule of the test's choice."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from r1trt.plugin_checks.cases.arrays import aligned
from r1trt.plugin_checks.cases.library import KernelLibrary
from r1trt.plugin_checks.cases.params import Params

SHARED_LIMIT = 227 * 1024
LATE, EAGER, RANDOM = range(3)  # when asynchronous copies land


class HostKernels(KernelLibrary):
    """A library of `build_library`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.library.simt_last_error.restype = ctypes.c_char_p

    def configure(self, *, seed: int = 0, landing: int = LATE, shared_limit: int = SHARED_LIMIT) -> None:
        """Sets the schedule of the launches that follow.

        Args:
            seed: Threads and blocks run in order at 0, in reverse below it, at random above it.
            landing: When asynchronous copies write: `LATE`, `EAGER` or `RANDOM`.
            shared_limit: Most shared memory of a block, in bytes.
        """
        self.library.simt_configure(ctypes.c_long(seed), landing, shared_limit)

    def launch(self, params: Params) -> int:
        """Runs to the end, in a workspace of exactly the size asked for; returns the CUDA error code."""
        workspace = None
        if hasattr(params, "workspace") and not params.workspace:
            workspace = aligned((self.workspace_size(params),), np.uint8)
            workspace.fill(0xFF)
            params.workspace, params.workspace_size = workspace.ctypes.data, workspace.size
        error = self.launch_status(params)
        if workspace is not None:
            params.workspace = None
        return error

    def check_launch(self, params: Params) -> None:
        """Runs; any error is an AssertionError with the host layer's report."""
        error = self.launch(params)
        assert error == 0, f"cudaError {error}: {self.library.simt_last_error().decode()}"
