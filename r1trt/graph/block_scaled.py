"""FP8 weights with block scales as FP32 tensors whose rows are made while they are read.

Legend: N rows of a weight, K its columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from r1trt.config import SCALE_BLOCK
from r1trt.errors import CheckpointError
from r1trt.graph.quantize import Array, RowTensor, stored_rows


class BlockScaledTensor(RowTensor):
    """Rows of an FP8 weight, each element times the scale of its block of 128 x 128; FLOAT.

    Args:
        codes: FP8 elements, or their bytes; whole rows.
        scales: FLOAT [ceil(N/128),ceil(K/128)] of the whole weight.
        columns: K.
        first_row: Where `codes` begin in the whole weight.
    """

    def __init__(
        self, codes: ir.TensorProtocol, scales: ir.TensorProtocol, *, columns: int, first_row: int = 0
    ) -> None:
        count = math.prod(int(size) for size in codes.shape if isinstance(size, int))
        super().__init__(ir.DataType.FLOAT, [count // columns, columns], name=str(codes.name))
        self.codes, self.scales, self.columns, self.first_row = codes, scales, columns, first_row

    def rows(self) -> Iterator[Array]:
        """Rows [r,K] in order, FP32; the values are exact but for the rounding of one product.

        Raises:
            CheckpointError: A scale is no positive finite number, or a file cannot be read.
        """
        scales = self.scales.numpy().astype(np.float32)
        require_positive_scales(str(self.scales.name), scales)
        row = self.first_row
        for chunk in stored_rows(self.codes, self.columns):
            blocks = np.arange(row, row + len(chunk)) // SCALE_BLOCK
            spread = np.repeat(scales[blocks], SCALE_BLOCK, axis=1)[:, : self.columns]
            yield floats_from_codes(chunk) * spread
            row += len(chunk)


class JoinedScales(ir.LazyTensor):
    """Block scales of several weights, one after the other, as FP32; read while they are written.

    Args:
        parts: The checkpoint's tensors.
        shape: Shape of the whole.
        name: Its name.
    """

    def __init__(self, parts: Sequence[ir.TensorProtocol], shape: Sequence[int], *, name: str) -> None:
        super().__init__(self._joined, ir.DataType.FLOAT, ir.Shape(shape), name=name)
        self.parts = tuple(parts)

    def _joined(self) -> ir.TensorProtocol:
        """Raises CheckpointError where a scale is no positive finite number."""
        arrays = [part.numpy().astype(np.float32).reshape(-1) for part in self.parts]
        for part, array in zip(self.parts, arrays, strict=True):
            require_positive_scales(str(part.name), array)
        shape = [int(size) for size in self.shape if isinstance(size, int)]
        return ir.Tensor(np.concatenate(arrays).reshape(shape), name=self.name)


def floats_from_codes(codes: Array) -> NDArray[np.float32]:
    """E4M3 elements, or their bytes, as FP32."""
    values: NDArray[np.float32] = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    return values


def count_unusable_scales(scales: Array) -> int:
    """How many scales are NaN, infinite, 0 or negative."""
    return int((~(np.isfinite(scales) & (scales > 0))).sum())


def require_positive_scales(name: str, scales: Array) -> None:
    """Raises CheckpointError unless every scale is positive and finite."""
    bad = count_unusable_scales(scales)
    if bad:
        raise CheckpointError(
            "Scales of FP8 weights are not positive numbers.",
            where=name,
            found=f"{bad} of {scales.size} scales that are NaN, infinite, 0 or negative",
            expected="positive finite numbers",
            fix="download the checkpoint again",
        )
