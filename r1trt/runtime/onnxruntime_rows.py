"""Rows of a graph that ONNX Runtime runs on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from r1trt.errors import UnavailableError
from r1trt.runtime.rows import check_rows, last_logits
from r1trt.runtime.session import Float32Array, Int64Array, SessionError, SessionLimits

# Given bytes, ONNX Runtime would look for the weights in the working directory.
_WEIGHT_DIRECTORY = "session.model_external_initializers_file_folder_path"
_ERRORS_ONLY = 3
# Enough for the gap between two operators; shorter costs time on idle cores, longer on busy ones.
_SPIN_US = "20"


class OnnxRuntimeRows:
    """A graph of the toolchain's interface; its caches are NumPy arrays, updated in place.

    ONNX Runtime is given the addresses of a range of rows as a cache's input and output both, and then writes
    the new tokens only.

    Args:
        model_path: The ONNX file.
        rows: Rows of the cache. Memory that no sequence has reached yet is not touched.
        weight_base: Directory that external data is relative to; None means the file's own.
        threads: Threads of one operator; None leaves it to ONNX Runtime.
        max_input_len: Limit to enforce.

    Raises:
        SessionError: ONNX Runtime cannot load the graph, or it has no KV cache.
        UnavailableError: ONNX Runtime is not installed.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        rows: int,
        weight_base: Path | None = None,
        threads: int | None = None,
        max_input_len: int | None = None,
    ) -> None:
        self._path = model_path
        self._session = _load(model_path, weight_base or model_path.parent, threads or 0)
        self._has = {value.name for value in self._session.get_inputs()}
        shapes = {
            value.name: tuple(value.shape[1:])
            for value in self._session.get_inputs()
            if "_cache." in value.name
        }
        if not shapes:
            raise SessionError(
                "A scoring engine cannot generate: it has no KV cache.",
                where=model_path,
                fix="build without --no-cache",
            )
        logits = next(value for value in self._session.get_outputs() if value.name == "logits")
        self.rows = rows
        self.limits = SessionLimits(
            vocab_size=int(logits.shape[-1]),
            capacity=int(next(iter(shapes.values()))[-2]),
            max_batch_size=rows,
            max_input_len=max_input_len,
            last_token_logits=len(logits.shape) == 2,
        )
        # NOTES: zeros, because NaN in a place that was never written would poison attention.
        self._caches: dict[str, npt.NDArray[np.float32]] = {
            name: np.zeros((rows, *shape), np.float32) for name, shape in shapes.items()
        }

    def step(
        self, first_row: int, input_ids_BS: Int64Array, seq_len_B: Int64Array, past_len_B: Int64Array
    ) -> Float32Array:
        """Appends tokens to a range of rows; see `RowSession.step`."""
        check_rows(self.limits, self.rows, first_row, input_ids_BS, seq_len_B, past_len_B)
        binding = self._session.io_binding()
        arrays = {"input_ids": input_ids_BS, "seq_len": seq_len_B, "past_len": past_len_B}
        for name, array in arrays.items():
            if name in self._has:
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name, cache in self._caches.items():
            view = cache[first_row : first_row + len(input_ids_BS)]
            where = ("cpu", 0, np.float32, list(view.shape), view.ctypes.data)
            binding.bind_input(name, *where)
            binding.bind_output(name.replace("_cache.", "_cache_out."), *where)
        binding.bind_output("logits")
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise SessionError("ONNX Runtime failed at a call.", where=self._path, found=error) from error
        # Outputs come in the order of binding: the caches first.
        return last_logits(binding.get_outputs()[-1].numpy(), seq_len_B)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies the first `tokens` tokens of one row to another."""
        for cache in self._caches.values():
            cache[target, :, :tokens] = cache[source, :, :tokens]

    def clear(self, row: int) -> None:
        """Sets one row of every cache to zero."""
        for cache in self._caches.values():
            cache[row] = 0.0

    def close(self) -> None:
        """Frees the model and its caches."""
        self._caches = {}
        self._session = None


def _load(path: Path, weight_base: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UnavailableError(
            "ONNX Runtime is not installed.", fix="pip install onnxruntime, then start again"
        ) from error
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry(_WEIGHT_DIRECTORY, str(weight_base.resolve()))
    # ONNX Runtime's threads spin while they wait, by default for as long as a call takes. That holds cores
    # that the server and its clients need: with the cores in other use, a call took twice as long.
    settings.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_US)
    # A Q/DQ pair computes what it says, as in validation.
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return onnxruntime.InferenceSession(path.read_bytes(), settings, providers=["CPUExecutionProvider"])
    except FileNotFoundError as error:
        raise SessionError("There is no such graph.", where=path, fix="build it again") from error
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise SessionError("ONNX Runtime cannot load the graph.", where=path, found=error) from error
