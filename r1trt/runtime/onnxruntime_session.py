"""Running graphs with ONNX Runtime on the CPU: exports, the typed graph's simulation and `cpu` engines.

Imports nothing that a server's Python environment lacks: the graph's interface is asked of ONNX Runtime.

Legend: B rows of one call, S tokens of one call, V vocabulary, C cache capacity, D hidden size.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from r1trt.graph.interface import HIDDEN_IN, INPUT_IDS, ONLY_LAST
from r1trt.machine import memory_of_machine
from r1trt.runtime.expert_source import ExpertSource, StackInputs
from r1trt.runtime.free_memory import return_free_memory
from r1trt.runtime.onnxruntime_model import LoadOptions, inference_session
from r1trt.runtime.session import (
    LOGITS,
    Float32Array,
    Int64Array,
    Outputs,
    Session,
    SessionError,
    SessionLimits,
    cache_output,
    is_cache_input,
)
from r1trt.runtime.session_checks import check_cache_memory, check_call, check_rows

CacheArray = npt.NDArray[np.float32] | npt.NDArray[np.float16]
_TRUE = np.array(True)
_KEPT_BINDINGS = 64
_CACHE_TYPES: Mapping[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
}
"""What a cache may be kept in, by ONNX Runtime's names."""


class OnnxRuntimeSession(Session):
    """A graph with the interface of the toolchain; its caches are NumPy arrays, updated in place.

    ONNX Runtime is given the addresses of a range of rows as a cache's input and output both. Its
    TensorScatter then writes the new tokens only; otherwise it would copy the whole cache at every call. This
    is right because nothing in our graphs reads a cache's old contents after its update.

    Args:
        graph: An ONNX file, or a serialized graph.
        weight_base: Directory that external data is relative to; None means the file's own.
        outputs: What a call returns: result's name -> name of the graph's output.
        max_batch_size: Limit to enforce.
        max_input_len: Limit to enforce.
        options: How ONNX Runtime loads it.
        experts: What further inputs are read from, which stay what they are; None where there are none.

    Raises:
        SessionError: ONNX Runtime cannot load the graph, or its interface is another one.
        UnavailableError: ONNX Runtime is not installed.
    """

    def __init__(
        self,
        graph: Path | bytes,
        *,
        weight_base: Path | None = None,
        outputs: Mapping[str, str] | None = None,
        max_batch_size: int | None = None,
        max_input_len: int | None = None,
        options: LoadOptions | None = None,
        experts: ExpertSource | None = None,
    ) -> None:
        if weight_base is None:
            assert isinstance(graph, Path), "a serialized graph has no directory of its own"
            weight_base = graph.parent
        self._where = graph if isinstance(graph, Path) else weight_base
        self._load = partial(inference_session, graph, weight_base, options or LoadOptions())
        self._session, self._experts = self._load(), experts
        self._stacks = self._stack_inputs()
        self._outputs = dict(outputs or {LOGITS: LOGITS})
        self._input_names = frozenset(value.name for value in self._session.get_inputs())
        self._given = HIDDEN_IN if HIDDEN_IN in self._input_names else INPUT_IDS
        defaults = {value.name for value in self._session.get_overridable_initializers()}
        self._chooses_tokens = ONLY_LAST in defaults
        self._cache_shapes, self._cache_types = self._shapes_of_caches(), self._types_of_caches()
        logits = self._logits_shape()
        self.rows = 0
        self.limits = SessionLimits(
            vocab_size=int(logits[-1]) if logits else sys.maxsize,
            capacity=next((shape[-2] for shape in self._cache_shapes.values()), None),
            max_batch_size=max_batch_size,
            max_input_len=max_input_len,
            last_token_logits=len(logits) == 2,
        )
        self._caches: dict[str, CacheArray] = {}
        self._bindings: dict[tuple[int, int, bool], Any] = {}

    def reset(self, rows: int) -> None:
        """Starts a table of `rows` empty sequences. Memory that no sequence has reached is not touched."""
        check_rows(self.limits, rows)
        needed = rows * sum(
            self._cache_types[name].itemsize * math.prod(shape) for name, shape in self._cache_shapes.items()
        )
        room = memory_of_machine().total
        check_cache_memory(self.limits, rows, needed=needed, room=room, memory="this machine's memory")
        # Zeros, and fresh ones: NaN in a place that this sequence has not written would poison attention.
        self._caches = {
            name: np.zeros((rows, *shape), self._cache_types[name])
            for name, shape in self._cache_shapes.items()
        }
        self._bindings.clear()
        self.rows = rows

    def run(
        self,
        input_ids_BS: Int64Array | Float32Array,
        seq_len_B: Int64Array,
        past_len_B: Int64Array,
        first_row: int = 0,
        *,
        only_last: bool = False,
    ) -> Outputs:
        """Appends tokens to a range of rows; see `Session.run`.

        A part of a model but the first gets the hidden state [B,S,D] that the part before it gave, in place
        of token ids [B,S].
        """
        check_call(self.limits, self.rows, first_row, input_ids_BS, seq_len_B, past_len_B)
        arrays = {self._given: input_ids_BS, "seq_len": seq_len_B, "past_len": past_len_B}
        self.load()
        try:
            binding = self._binding(first_row, len(input_ids_BS), only_last and self._chooses_tokens)
            for name, array in arrays.items():
                if name in self._input_names:
                    binding.bind_cpu_input(name, np.ascontiguousarray(array))
            names = list(dict.fromkeys(self._outputs.values()))  # one may be two results
            for name in names:  # anew: memory of the last call would be taken for this one
                binding.bind_output(name)
            self._session.run_with_iobinding(binding)
            values = binding.get_outputs_as_ortvaluevector()
            # Outputs come in the order of binding: the caches first.
            made = {name: values[len(self._caches) + at].numpy() for at, name in enumerate(names)}
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise SessionError("ONNX Runtime failed at a call.", where=self._where, found=error) from error
        results: Outputs = {result: made[name] for result, name in self._outputs.items()}
        if self.limits.last_token_logits:
            results[LOGITS] = results[LOGITS][:, None]
        return results

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies the first `tokens` tokens of one row to another."""
        for cache in self._caches.values():
            cache[target, :, :tokens] = cache[source, :, :tokens]

    def swap(self, row: int, other: int, tokens: int) -> None:
        """Exchanges the first `tokens` tokens of two rows."""
        for cache in self._caches.values():
            cache[[row, other], :, :tokens] = cache[[other, row], :, :tokens]

    def clear(self, row: int) -> None:
        """Sets one row of every cache to zero."""
        for cache in self._caches.values():
            cache[row] = 0.0

    def load(self) -> None:
        """Loads the graph again where `unload` freed it. Raises SessionError where that fails."""
        if self._session is None:
            self._session = self._load()
            self._stacks = self._stack_inputs()

    def unload(self) -> None:
        """Frees the graph and its weights until the next call; the caches stay."""
        self._bindings.clear()
        self._session = self._stacks = None
        return_free_memory()

    def end_profile(self) -> Path:
        """Ends the profiler that the session was loaded with, and names the file that it wrote."""
        return Path(self._session.end_profiling())

    def close(self) -> None:
        """Frees the model and its caches."""
        self.unload()
        self._caches = {}

    def _binding(self, first_row: int, B: int, only_last: bool) -> Any:
        """The caches of a range of rows, bound: that takes half a millisecond, and ranges come again."""
        key = (first_row, B, only_last)
        binding = self._bindings.get(key)
        if binding is None:
            if len(self._bindings) >= _KEPT_BINDINGS:
                self._bindings.clear()
            binding = self._session.io_binding()
            if only_last:
                # By address: ONNX Runtime's other way knows no inputs with defaults.
                binding.bind_input(ONLY_LAST, "cpu", 0, np.bool_, _TRUE.shape, _TRUE.ctypes.data)
            self._bind_caches(binding, first_row, B)
            if self._stacks is not None:
                self._stacks.bind(binding)
            self._bindings[key] = binding  # whole: one that failed is not taken again
        return binding

    def _bind_caches(self, binding: Any, first_row: int, B: int) -> None:
        for name, cache in self._caches.items():
            view = cache[first_row : first_row + B]
            where = ("cpu", 0, view.dtype.type, view.shape, view.ctypes.data)
            binding.bind_input(name, *where)
            binding.bind_output(cache_output(name), *where)

    def _stack_inputs(self) -> StackInputs | None:
        if self._experts is None:
            return None
        try:
            return StackInputs(self._session, self._experts.in_memory())
        except ValueError as error:
            raise self._another_interface(str(error), "an input as the manifest lists it") from error

    def _logits_shape(self) -> list[Any]:
        """`[B, S, V]` or `[B, V]`; empty where no logits are wanted, as when a graph measures something."""
        if LOGITS not in self._outputs:
            return []
        found = {value.name: list(value.shape) for value in self._session.get_outputs()}
        shape = found.get(self._outputs[LOGITS], [])
        if len(shape) not in (2, 3) or not isinstance(shape[-1], int):
            raise self._another_interface(
                f"outputs {list(found)}", "an output 'logits' [B, S, V] or [B, V] with a fixed V"
            )
        return shape

    def _shapes_of_caches(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one row's caches, by input: heads, capacity, elements of a head."""
        shapes: dict[str, tuple[int, ...]] = {}
        for value in self._session.get_inputs():
            if not is_cache_input(value.name):
                continue
            row = value.shape[1:]
            if len(row) != 3 or not all(isinstance(size, int) for size in row):
                raise self._another_interface(
                    f"input '{value.name}' of the shape {value.shape}",
                    "[B, heads, capacity, elements of a head], fixed but for B",
                )
            shapes[value.name] = tuple(row)
        return shapes

    def _types_of_caches(self) -> dict[str, np.dtype[Any]]:
        """Types of the caches' elements, by input."""
        found = {value.name: value.type for value in self._session.get_inputs() if is_cache_input(value.name)}
        for name, kind in found.items():
            if kind not in _CACHE_TYPES:
                raise self._another_interface(f"input '{name}' of the type {kind}", " or ".join(_CACHE_TYPES))
        return {name: _CACHE_TYPES[kind] for name, kind in found.items()}

    def _another_interface(self, found: str, expected: str) -> SessionError:
        return SessionError(
            "The graph's interface is not the toolchain's.",
            where=self._where,
            found=found,
            expected=expected,
        )
