"""The one table of element types: their names in plans, checkpoints, graphs, networks and servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np


@dataclass(frozen=True, kw_only=True)
class DataType:
    """One element type, as every format spells it.

    Attributes:
        name: Its name in precision plans, e.g. "fp8_e4m3".
        numpy: The array type, little-endian; ml_dtypes' where NumPy has none.
        safetensors: Its name in a safetensors header, e.g. "F8_E4M3".
        onnx: Its number in ONNX, which `onnx_ir.DataType` takes; a number, so that nothing here imports ONNX.
        onnx_name: Its name in ONNX, e.g. "FLOAT8E4M3FN".
        tensorrt: Its name in a TensorRT network, e.g. "FP8"; None where TensorRT has no such type.
        triton: Its name in a Triton model's configuration; None where Triton has no such type.
    """

    name: str
    numpy: np.dtype[Any]
    safetensors: str
    onnx: int
    onnx_name: str
    tensorrt: str | None = None
    triton: str | None = None

    @property
    def bytes(self) -> int:
        """Bytes of one element in an array."""
        return self.numpy.itemsize

    @property
    def bits(self) -> int:
        """Bits of one element where it is stored: two of INT4 share a byte."""
        return 4 if self.name == "int4" else 8 * self.bytes


def _row(name: str, numpy: Any, safetensors: str, onnx: tuple[int, str], *rest: str | None) -> DataType:
    tensorrt, triton = (*rest, None, None)[:2]
    return DataType(
        name=name,
        numpy=np.dtype(numpy),
        safetensors=safetensors,
        onnx=onnx[0],
        onnx_name=onnx[1],
        tensorrt=tensorrt,
        triton=triton,
    )


_ROWS = (
    # name, NumPy, safetensors, ONNX, TensorRT, Triton
    _row("fp32", "<f4", "F32", (1, "FLOAT"), "FLOAT", "TYPE_FP32"),
    _row("bf16", ml_dtypes.bfloat16, "BF16", (16, "BFLOAT16"), "BF16", "TYPE_BF16"),
    _row("fp16", "<f2", "F16", (10, "FLOAT16"), "HALF", "TYPE_FP16"),
    _row("fp8_e4m3", ml_dtypes.float8_e4m3fn, "F8_E4M3", (17, "FLOAT8E4M3FN"), "FP8"),
    _row("fp8_e5m2", ml_dtypes.float8_e5m2, "F8_E5M2", (19, "FLOAT8E5M2")),
    _row("fp8_e8m0", ml_dtypes.float8_e8m0fnu, "F8_E8M0", (24, "FLOAT8E8M0"), "E8M0"),
    _row("fp64", "<f8", "F64", (11, "DOUBLE"), None, "TYPE_FP64"),
    _row("complex64", "<c8", "C64", (14, "COMPLEX64")),
    _row("int4", ml_dtypes.int4, "I4", (22, "INT4"), "INT4"),
    _row("int8", "i1", "I8", (3, "INT8"), "INT8", "TYPE_INT8"),
    _row("int16", "<i2", "I16", (5, "INT16"), None, "TYPE_INT16"),
    _row("int32", "<i4", "I32", (6, "INT32"), "INT32", "TYPE_INT32"),
    _row("int64", "<i8", "I64", (7, "INT64"), "INT64", "TYPE_INT64"),
    _row("uint8", "u1", "U8", (2, "UINT8"), "UINT8", "TYPE_UINT8"),
    _row("uint16", "<u2", "U16", (4, "UINT16"), None, "TYPE_UINT16"),
    _row("uint32", "<u4", "U32", (12, "UINT32"), None, "TYPE_UINT32"),
    _row("uint64", "<u8", "U64", (13, "UINT64"), None, "TYPE_UINT64"),
    _row("bool", "?", "BOOL", (9, "BOOL"), "BOOL", "TYPE_BOOL"),
)

DATA_TYPES: Mapping[str, DataType] = MappingProxyType({row.name: row for row in _ROWS})
"""Every type by its name in plans."""

OF_SAFETENSORS: Mapping[str, DataType] = MappingProxyType({row.safetensors: row for row in _ROWS})
"""Every type by its name in a safetensors header."""

OF_ONNX: Mapping[int, DataType] = MappingProxyType({row.onnx: row for row in _ROWS})
"""Every type by its number in ONNX; an `onnx_ir.DataType` is such a number."""

OF_TENSORRT: Mapping[str, DataType] = MappingProxyType({row.tensorrt: row for row in _ROWS if row.tensorrt})
"""The types of a TensorRT network by their names in it."""
