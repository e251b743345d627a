"""Element types, and arrays that lie in memory as a GPU's do."""

from __future__ import annotations

import ctypes
import weakref
from enum import IntEnum
from typing import Any

import ml_dtypes
import numpy as np

ALIGNMENT = 256


class DataType(IntEnum):
    """`DataType` of the kernels."""

    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2
    FLOAT8_E4M3 = 3


FLOAT32, FLOAT16, BFLOAT16, FLOAT8_E4M3 = DataType
DTYPES: dict[int, np.dtype[Any]] = {
    FLOAT32: np.dtype(np.float32),
    FLOAT16: np.dtype(np.float16),
    BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    FLOAT8_E4M3: np.dtype(ml_dtypes.float8_e4m3fn),
}
# Half the distance of two neighbours, relative to their size.
ROUNDING: dict[int, float] = {FLOAT32: 2.0**-24, FLOAT16: 2.0**-11, BFLOAT16: 2.0**-8, FLOAT8_E4M3: 2.0**-4}
LARGEST_E4M3 = 448.0

_libc = ctypes.CDLL(None)


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialized array in an allocation of exactly its size, so that AddressSanitizer knows its end."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    pointer = ctypes.c_void_p()
    if _libc.posix_memalign(ctypes.byref(pointer), ctypes.c_size_t(ALIGNMENT), ctypes.c_size_t(max(size, 1))):
        raise MemoryError(f"{size} bytes")
    address = pointer.value
    memory = (ctypes.c_char * max(size, 1)).from_address(address or 0)
    weakref.finalize(memory, _libc.free, pointer)
    array: np.ndarray = np.frombuffer(memory, np.uint8, size).view(dtype).reshape(shape)
    return array


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """A copy in memory aligned as a GPU's is."""
    result = aligned(array.shape, array.dtype)
    result[...] = array
    return result


def address(array: np.ndarray | None) -> int | None:
    """Where an array lies; None for none."""
    return None if array is None else array.ctypes.data
