"""What quantized values are stored as: FP8 and INT8 codes, which times a scale are the values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from r1trt.data_types import DATA_TYPES

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class CodeType:
    """One type of codes. A value is a code times an FP32 scale; codes are symmetric around 0.

    Attributes:
        name: Its name in plans.
        largest: Largest code; what lies beyond it saturates.
        integer: Whether codes are whole numbers, rather than floating-point ones.
    """

    name: str
    largest: float
    integer: bool

    @property
    def dtype(self) -> ir.DataType:
        """Its ONNX type."""
        return ir.DataType(DATA_TYPES[self.name].onnx)

    def codes(self, values: Array, scale: Array | np.float32) -> Array:
        """Codes of values: `values / scale` to the nearest code, ties to even, saturated.

        Args:
            values: Float array.
            scale: FP32, broadcast against `values`.
        """
        scaled = values.astype(np.float32) / np.asarray(scale, np.float32)
        clipped = np.clip(scaled, -self.largest, self.largest)
        return (np.rint(clipped) if self.integer else clipped).astype(DATA_TYPES[self.name].numpy)

    def scale(self, amax: Array | float) -> NDArray[np.float32]:
        """FP32 scale that maps the largest magnitude to the largest code; 1 where everything is zero."""
        scale = np.asarray(amax, np.float32) / np.float32(self.largest)
        # A subnormal amax underflows to 0; such values are negligible.
        return np.where(scale > 0, scale, np.float32(1.0)).astype(np.float32)


FP8_CODES = CodeType(name="fp8_e4m3", largest=448.0, integer=False)
# -128 has no counterpart and is left out; of activations that a scale clips, builders reach it all the same.
INT8_CODES = CodeType(name="int8", largest=127.0, integer=True)

CODE_TYPES: Mapping[str, CodeType] = MappingProxyType({item.name: item for item in (FP8_CODES, INT8_CODES)})
"""Every type of codes by its name in plans."""


def code_type_of(dtype: ir.DataType) -> CodeType | None:
    """The codes that an ONNX type holds; None where it holds values as they are."""
    return next((item for item in CODE_TYPES.values() if item.dtype == dtype), None)
