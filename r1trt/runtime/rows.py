"""A loaded model whose batch is a table of rows: what a scheduler of many requests runs on.

A row is one sequence's place in the KV cache. A call names a range of neighbouring rows, and the caches of
that range are bound where they lie, so that a prompt can be read on one row while the others wait untouched.

Legend: B rows of one call, S tokens of one call, V vocabulary, C cache capacity.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from r1trt.artifacts.store import read_manifest
from r1trt.errors import UnavailableError
from r1trt.runtime.session import Float32Array, Int64Array, SessionError, SessionLimits, check_step


class RowSession(Protocol):
    """A loaded model with a fixed number of rows."""

    @property
    def limits(self) -> SessionLimits:
        """What a call accepts; `capacity` is never None."""
        ...

    @property
    def rows(self) -> int:
        """Rows of the cache."""
        ...

    def step(
        self, first_row: int, input_ids_BS: Int64Array, seq_len_B: Int64Array, past_len_B: Int64Array
    ) -> Float32Array:
        """Appends tokens to the rows `first_row` to `first_row + B`, exclusive.

        Args:
            first_row: The range's first row.
            input_ids_BS: Token ids, padded on the right.
            seq_len_B: How many of the S tokens of each row are real; a row with 0 keeps its sequence.
            past_len_B: Tokens that each row holds. The padding is written too, after them.

        Returns:
            Logits `[B, V]` of each row's last real token, undefined for rows without one. A later call may
            overwrite them.

        Raises:
            SessionError: The call does not fit, or the backend failed.
        """
        ...

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies the first `tokens` tokens of one row to another."""
        ...

    def clear(self, row: int) -> None:
        """Sets one row of every cache to zero."""
        ...

    def close(self) -> None:
        """Frees the model and its caches."""
        ...


def check_rows(
    limits: SessionLimits,
    rows: int,
    first_row: int,
    input_ids_BS: Int64Array,
    seq_len_B: Int64Array,
    past_len_B: Int64Array,
) -> None:
    """Check one call on a range of rows.

    Raises:
        SessionError: Says which limit, and by how much.
    """
    if first_row < 0 or first_row + len(input_ids_BS) > rows:
        raise SessionError(
            "The call names rows that the cache does not have.",
            found=f"rows {first_row} to {first_row + len(input_ids_BS) - 1}",
            expected=f"0 to {rows - 1}",
        )
    check_step(limits, len(input_ids_BS), input_ids_BS, seq_len_B, past_len_B)


def last_logits(logits: Float32Array, seq_len_B: Int64Array) -> Float32Array:
    """`[B, S, V]`, or `[B, V]` of a graph that picks the last token itself, to `[B, V]`."""
    if logits.ndim == 2:
        return logits
    picked: Float32Array = logits[np.arange(len(logits)), np.maximum(seq_len_B, 1) - 1]
    return picked


def rows_from_engine(engine: Path, rows: int, *, threads: int | None = None) -> RowSession:
    """Load a build directory for serving.

    Args:
        engine: Build directory.
        rows: Sequences at a time, at most.
        threads: CPU threads of ONNX Runtime; None leaves it to ONNX Runtime.

    Raises:
        SessionError: The engine has no KV cache, or was built for fewer rows.
        UnavailableError: It needs a GPU or a library that is not here, or was not finished.
    """
    manifest = read_manifest(engine, "engine")
    if not manifest["engines"]:
        raise UnavailableError(
            "This build is not finished: it has no engine.", where=engine, fix=f"r1trt build {engine}"
        )
    if not manifest["cache"]:
        raise SessionError(
            "A scoring engine cannot generate: it has no KV cache.",
            where=engine,
            fix="build without --no-cache",
        )
    if rows < 1 or rows > manifest["max_batch_size"]:
        raise SessionError(
            "The engine was not built for so many rows.",
            where=engine,
            found=rows,
            expected=f"1 to {manifest['max_batch_size']} (--max-batch-size)",
        )
    if manifest["backend"] == "onnxruntime":
        from r1trt.runtime.onnxruntime_rows import OnnxRuntimeRows

        return OnnxRuntimeRows(
            engine / manifest["engines"][0]["file"],
            rows=rows,
            threads=threads,
            max_input_len=manifest["max_input_len"],
        )
    from r1trt.runtime.tensorrt_rows import TensorRTRows

    return TensorRTRows(engine, manifest, rows=rows)
