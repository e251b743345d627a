"""The kernels' launch functions behind `ctypes`."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, TypeVar

from r1trt.plugin_checks.cases.params import ALL_PARAMS, Params

AnyParams = TypeVar("AnyParams", bound=Params)


class KernelLibrary(ABC):
    """A loaded library of launch functions.

    Args:
        path: The kernels with the C names of `native/launch_functions.cpp`.

    Raises:
        RuntimeError: Its structs are not those of the headers here.
    """

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        for params in ALL_PARAMS:
            self._function("workspace", params).restype = ctypes.c_size_t
            size = int(self._function("sizeof", params)())
            if size != ctypes.sizeof(params):
                raise RuntimeError(f"{params.operator}: {size} bytes in C++, {ctypes.sizeof(params)} here")

    def _function(self, verb: str, params: Params | type[Params]) -> Any:
        return getattr(self.library, f"r1trt_{verb}_{params.operator}")

    def params(self, kind: type[AnyParams], **fields: Any) -> AnyParams:
        """Parameters of a launch, with C++'s own defaults for what is not named."""
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

    def launch_status(self, params: Params, stream: int = 0) -> int:
        """Enqueues on addresses that the kernels can reach; returns the CUDA error code."""
        return int(self._function("launch", params)(ctypes.byref(params), ctypes.c_void_p(stream)))

    @abstractmethod
    def check_launch(self, params: Params) -> None:
        """Runs to the end on arrays of the CPU's, in a workspace of exactly the size asked for.

        Raises:
            AssertionError: A kernel was refused or failed.
        """
