"""Weights in the plan's types, streamed: read in row chunks, converted, never whole in memory.

Legend: R rows of a weight's 2-D view (all leading axes folded), K its last axis.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from r1trt.errors import CheckpointError, PlanError
from r1trt.files import open_file
from r1trt.graph.codes import code_type_of

CHUNK_BYTES = 16 << 20
_FLOATS = (
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT8E4M3FN,
)

Array = NDArray[Any]


class RowTensor(ir.LazyTensor):
    """A tensor whose rows are computed while they are read.

    Args:
        dtype: Its type.
        dims: Its shape.
        name: Its name.
    """

    def __init__(self, dtype: ir.DataType, dims: Sequence[int], *, name: str) -> None:
        super().__init__(self._whole, dtype, ir.Shape(dims), name=name)
        self._dims = tuple(dims)

    @abstractmethod
    def rows(self) -> Iterator[Array]:
        """Rows in order, some at a time."""

    def tofile(self, file: Any) -> None:
        """Stream the rows into a binary file."""
        for rows in self.rows():
            file.write(np.ascontiguousarray(rows).view(np.uint8).data)

    def _whole(self) -> ir.TensorProtocol:
        array = np.concatenate([rows.reshape(-1) for rows in self.rows()]).reshape(self._dims)
        return ir.Tensor(array, dtype=self.dtype, name=self.name)


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """Float weights as the checkpoint stores them: the rows of `parts`, one after the other, seen as `shape`.

    Attributes:
        name: What messages call it.
        parts: Tensors of one type; stacked experts are many, most weights one.
        shape: Shape of the whole.
    """

    name: str
    parts: tuple[ir.TensorProtocol, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        elements = sum(math.prod(_dims(part)) for part in self.parts)
        if elements != math.prod(self.shape) or len({part.dtype for part in self.parts}) != 1:
            raise PlanError(
                "Weights that are joined do not fit together.",
                where=self.name,
                found=[(str(part.dtype), _dims(part)) for part in self.parts],
                expected=self.shape,
            )
        if self.dtype not in _FLOATS:
            raise PlanError("A weight has a type that is not handled.", where=self.name, found=self.dtype)

    @property
    def dtype(self) -> ir.DataType:
        """Stored type."""
        return self.parts[0].dtype

    @property
    def row_size(self) -> int:
        """K."""
        return self.shape[-1] if self.shape else 1

    @property
    def rows_per_index(self) -> int:
        """Rows of the 2-D view that one index of axis 0 covers."""
        return math.prod(self.shape[1:-1])

    def chunks(self) -> Iterator[Array]:
        """Rows [r,K] in order, in the stored type, about CHUNK_BYTES at a time."""
        for part in self.parts:
            yield from rows_of(part, self.row_size)


def _dims(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    return tuple(int(size) for size in tensor.shape if isinstance(size, int))


def rows_of(part: ir.TensorProtocol, row_size: int) -> Iterator[Array]:
    """Rows of a tensor in order, about CHUNK_BYTES at a time: computed, converted, or as they are stored."""
    if isinstance(part, RowTensor):
        yield from part.rows()
    elif isinstance(part, WeightTensor):
        yield from (chunk.reshape(-1, row_size) for chunk in part.chunks())
    else:
        yield from stored_rows(part, row_size)


def stored_rows(part: ir.TensorProtocol, row_size: int) -> Iterator[Array]:
    """Rows of a tensor in order, as it is stored, about CHUNK_BYTES at a time."""
    dtype = part.dtype.numpy()
    row_bytes = max(row_size * dtype.itemsize, 1)
    rows = math.prod(_dims(part)) // max(row_size, 1)
    step = max(CHUNK_BYTES // row_bytes, 1)
    if not isinstance(part, ir.ExternalTensor):
        whole = np.asarray(part.numpy()).reshape(-1, row_size)
        yield from (whole[start : start + step] for start in range(0, rows, step))
        return
    # Read rather than map: pages of a map count as this process's memory, and a truncated file kills it.
    path = Path(part.path)
    try:
        with open_file(path) as file:
            file.seek(part.offset or 0)
            for start in range(0, rows, step):
                count = min(step, rows - start)
                data = file.read(count * row_bytes)
                if len(data) != count * row_bytes:
                    raise CheckpointError("A weight file is too short.", where=path, found=part.name)
                yield np.frombuffer(data, dtype).reshape(count, row_size)
    except OSError as error:
        raise CheckpointError("A weight file cannot be read.", where=path, found=error) from error


def require_finite(values: Array, where: str) -> None:
    """Refuse weights that are no numbers.

    Raises:
        CheckpointError: One is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise CheckpointError("A weight is not finite.", where=where, fix="repair the checkpoint")


def weight_amax(source: WeightSource, axis: int | None) -> NDArray[np.float32]:
    """Largest magnitude of the weights, one number, or one for each index of axis 0; FP32.

    Raises:
        CheckpointError: A weight is NaN or infinite.
    """
    rows = np.concatenate([_row_amax(source, chunk) for chunk in source.chunks()])
    if axis is None:
        return np.asarray(rows.max(initial=0.0), np.float32)
    return np.asarray(rows.reshape(source.shape[0], -1).max(axis=1), np.float32)


def _row_amax(source: WeightSource, chunk: Array) -> NDArray[np.float32]:
    amax: NDArray[np.float32] = np.abs(chunk.astype(np.float32)).max(axis=1)
    require_finite(amax, source.name)
    return amax


class WeightTensor(ir.LazyTensor):
    """A weight in the type that the plan gives it; converted chunk by chunk while it is written.

    Args:
        source: Where the values come from.
        dtype: FLOAT, BFLOAT16, FLOAT16, FLOAT8E4M3FN or INT8.
        scale: Of weights that become codes: one FP32 scale, or one for each index of axis 0.
        transposed: Store a [N,K] weight as [K,N]; holds that one weight in memory.
        bytes_only: Declare an FP8 weight as the UINT8 bytes of its elements.
    """

    def __init__(
        self,
        source: WeightSource,
        dtype: ir.DataType,
        *,
        name: str,
        scale: float | Sequence[float] | None = None,
        transposed: bool = False,
        bytes_only: bool = False,
    ) -> None:
        codes = code_type_of(dtype)
        if (codes is not None and source.dtype != dtype) != (scale is not None):
            raise PlanError(
                "Quantized weights have a scale, others none.", where=name, found=(str(dtype), scale)
            )
        scales = None if scale is None else np.asarray(scale, np.float32)
        if scales is not None and scales.ndim and scales.shape != source.shape[:1]:
            raise PlanError(
                "A weight and its scales differ in length.",
                where=name,
                found=scales.shape,
                expected=source.shape[:1],
            )
        shape = tuple(reversed(source.shape)) if transposed else source.shape
        declared = ir.DataType.UINT8 if bytes_only else dtype
        super().__init__(self._assembled, declared, ir.Shape(shape), name=name)
        self._source = source
        self._converts_to, self._codes = dtype, codes
        self._scales = scales
        self._transposed = transposed

    @property
    def source(self) -> WeightSource:
        """Where the values come from."""
        return self._source

    @property
    def element_type(self) -> ir.DataType:
        """Type of the elements, also where they are declared as bytes."""
        return self._converts_to

    @property
    def scales(self) -> tuple[float, ...] | None:
        """Of weights that become codes: one scale, or one for each index of axis 0."""
        return None if self._scales is None else tuple(self._scales.reshape(-1).tolist())

    @property
    def is_transposed(self) -> bool:
        """Whether a [N,K] weight is stored as [K,N]."""
        return self._transposed

    def as_bytes(self) -> WeightTensor:
        """The same FP8 weight, declared as bytes."""
        scale = None if self._scales is None else self._scales.tolist()
        return WeightTensor(
            self._source, self._converts_to, name=str(self.name), scale=scale, bytes_only=True
        )

    def squares(self) -> tuple[float, float]:
        """Sums of squares, of what quantizing changes and of the weights themselves."""
        changed, whole, start = 0.0, 0.0, 0
        for chunk in self._source.chunks():
            scale = self._scales_of_rows(len(chunk), start)
            values = chunk.astype(np.float32)
            back = self._quantized(values, start).astype(np.float32) * scale
            changed += float(np.square(back - values, dtype=np.float64).sum())
            whole += float(np.square(values, dtype=np.float64).sum())
            start += len(chunk)
        return changed, whole

    def chunks(self) -> Iterator[Array]:
        """The stored elements in order, as arrays of the target type."""
        if self._transposed:
            yield self._turned()
        else:
            yield from self._rows()

    def _turned(self) -> Array:
        """All of it as [K,N], which is filled while the rows are read."""
        rows, columns = self._source.shape
        dtype, start = self._converts_to.numpy(), 0
        turned: Array = np.empty((columns, rows), dtype)
        for chunk in self._rows():
            turned[:, start : start + len(chunk)] = chunk.T
            start += len(chunk)
        return turned

    def _rows(self) -> Iterator[Array]:
        start = 0
        for chunk in self._source.chunks():
            yield self._converted(chunk, start)
            start += len(chunk)

    def _converted(self, chunk: Array, start: int) -> Array:
        if self._scales is None:
            same = self._converts_to == self._source.dtype
            return chunk if same else chunk.astype(self._converts_to.numpy())
        return self._quantized(chunk, start)

    def _quantized(self, chunk: Array, start: int) -> Array:
        """The codes of the rows from `start` on."""
        assert self._codes is not None, "only quantized weights have a scale"
        return self._codes.codes(chunk, self._scales_of_rows(len(chunk), start))

    def _scales_of_rows(self, count: int, start: int) -> NDArray[np.float32]:
        """One scale, or [count,1] for the rows from `start` on."""
        scale = self._scales
        assert scale is not None, "quantized weights have a scale"
        if not scale.ndim:
            return scale
        rows = np.arange(start, start + count) // self._source.rows_per_index
        by_row: NDArray[np.float32] = scale[rows][:, None]
        return by_row

    def _assembled(self) -> ir.TensorProtocol:
        shape = tuple(int(size) for size in self.shape if isinstance(size, int))
        array = np.concatenate([chunk.reshape(-1) for chunk in self.chunks()]).reshape(shape)
        if self.dtype != self._converts_to:
            array = array.view(self.dtype.numpy())
        return ir.Tensor(array, dtype=self.dtype, name=self.name)

    def tofile(self, file: Any) -> None:
        """Stream the elements into a binary file."""
        for chunk in self.chunks():
            file.write(np.ascontiguousarray(chunk).view(np.uint8).data)
