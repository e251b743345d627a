"""What an export's weights must not hold: found before hours of building turn it into an engine."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from r1trt.config import SCALE_SUFFIXES
from r1trt.errors import CheckpointError
from r1trt.graph.block_scaled import count_unusable_scales, floats_from_codes
from r1trt.graph.quantize import stored_rows
from r1trt.progress import Progress, ignore

_LISTED = 20
_OR_SCALES = ", or are scales that are not positive"


def require_finite_weights(model: ir.Model, progress: Progress = ignore) -> None:
    """Read every weight once.

    Raises:
        CheckpointError: Lists the tensors that hold NaN or infinity, and the block scales of FP8 weights that
            hold 0 or negative numbers.
    """
    tensors = [value.const_value for value in model.graph.initializers.values()]
    stored = [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]
    total, done, bad, scales = sum(tensor.nbytes for tensor in stored), 0, [], 0
    for tensor in stored:
        is_scale = str(tensor.name).endswith(SCALE_SUFFIXES)
        count = _unusable(tensor, is_scale=is_scale)
        if count:
            bad.append(f"{tensor.name}: {count}")
            scales += is_scale
        done += tensor.nbytes
        progress("checking weights", done, total)
    if bad:
        shown = bad[:_LISTED] + [f"... and {len(bad) - _LISTED} more"] * (len(bad) > _LISTED)
        raise CheckpointError(
            f"{len(bad)} weights hold NaN or infinity{_OR_SCALES if scales else ''}.",
            found="\n    ".join(["", *shown]),
            fix="download the checkpoint again, or take an earlier training step",
        )


def _unusable(tensor: ir.ExternalTensor, *, is_scale: bool) -> int:
    """How many elements are NaN or infinite, or what no scale is."""
    columns = tensor.shape[-1] if len(tensor.shape) else 1
    assert isinstance(columns, int), "weights have sizes"
    chunks = stored_rows(tensor, columns)
    if is_scale:
        return sum(count_unusable_scales(chunk) for chunk in chunks)
    if tensor.dtype == ir.DataType.UINT8:
        # The bytes of FP8 experts.
        chunks = map(floats_from_codes, chunks)
    return sum(int((~np.isfinite(chunk.astype(np.float32))).sum()) for chunk in chunks)
