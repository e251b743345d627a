"""NaN and infinity in an export's weights: found before hours of building turn them into an engine."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from r1trt.errors import CheckpointError
from r1trt.graph.weights import weight_source_from_value
from r1trt.progress import Progress, ignore

_LISTED = 20


def require_finite_weights(model: ir.Model, progress: Progress = ignore) -> None:
    """Read every weight once.

    Raises:
        CheckpointError: Lists the tensors that hold NaN or infinity.
    """
    values = [v for v in model.graph.initializers.values() if isinstance(v.const_value, ir.ExternalTensor)]
    total, done, bad = sum(v.const_value.nbytes for v in values if v.const_value), 0, []
    for value in values:
        assert value.const_value is not None
        chunks = weight_source_from_value(value).chunks()
        count = sum(int((~np.isfinite(chunk.astype(np.float32))).sum()) for chunk in chunks)
        if count:
            bad.append(f"{value.name}: {count}")
        done += value.const_value.nbytes
        progress("checking weights", done, total)
    if bad:
        shown = bad[:_LISTED] + [f"... and {len(bad) - _LISTED} more"] * (len(bad) > _LISTED)
        raise CheckpointError(
            f"{len(bad)} weights hold NaN or infinity.",
            found="\n    ".join(["", *shown]),
            fix="download the checkpoint again, or take an earlier training step",
        )
