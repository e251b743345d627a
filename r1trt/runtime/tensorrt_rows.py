"""Rows of a TensorRT engine.

Not executed yet: this module was written on machines without an NVIDIA GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1trt.runtime.rows import check_rows, last_logits
from r1trt.runtime.session import Float32Array, Int64Array, SessionError
from r1trt.runtime.tensorrt_session import TensorRTSession, session_from_tensorrt_engine

# What TensorRT promises to accept as the address of an input.
_ALIGNMENT = 256


class TensorRTRows:
    """An engine whose caches stay on the GPU; a call binds the addresses of a range of rows.

    Args:
        engine: Build directory.
        manifest: Its manifest.
        rows: Rows of the cache.

    Raises:
        UnavailableError: No GPU, no driver, no TensorRT, or no engine for this GPU.
        SessionError: The engine cannot be loaded, or its rows do not lie on aligned addresses.
    """

    def __init__(self, engine: Path, manifest: Mapping[str, Any], *, rows: int) -> None:
        self._session: TensorRTSession = session_from_tensorrt_engine(engine, manifest)
        self.limits = self._session.limits
        self.rows = rows
        self._session.reset(rows)
        for name, size in self._session.row_bytes().items():
            if size % _ALIGNMENT:
                raise SessionError(
                    "A row of the KV cache does not start at an address that TensorRT accepts.",
                    where=f"{engine}, tensor {name}",
                    found=f"{size} bytes a row",
                    expected=f"a multiple of {_ALIGNMENT}",
                    fix="build with a --max-seq-len that is a multiple of 64",
                )

    def step(
        self, first_row: int, input_ids_BS: Int64Array, seq_len_B: Int64Array, past_len_B: Int64Array
    ) -> Float32Array:
        """Appends tokens to a range of rows; see `RowSession.step`."""
        check_rows(self.limits, self.rows, first_row, input_ids_BS, seq_len_B, past_len_B)
        logits = self._session.step_rows(first_row, input_ids_BS, seq_len_B, past_len_B)
        return last_logits(logits[:, 0] if self.limits.last_token_logits else logits, seq_len_B)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies one row to another, all of it: its tokens lie scattered over the heads."""
        self._session.move_row(source, target)

    def clear(self, row: int) -> None:
        """Sets one row of every cache to zero."""
        self._session.clear_row(row)

    def close(self) -> None:
        """Frees the engine and its caches."""
        self._session.close()
