"""A model in parts as one session: a call goes through the parts in turn, in this process.

Legend: B rows of one call, S tokens of one call, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from r1trt.graph.interface import HIDDEN_OUT
from r1trt.machine import memory_of_machine
from r1trt.runtime.onnxruntime_session import OnnxRuntimeSession
from r1trt.runtime.residency import Residency, Turns, residency
from r1trt.runtime.session import Float32Array, Int64Array, Outputs, Session
from r1trt.runtime.session_checks import check_call, check_rows

RESERVED_SHARE = 0.1
"""Of the memory, what a call's activations, libraries and other programs are left."""


class PartsSession(Session):
    """Sessions of a model's parts, each with the caches of its own layers.

    Args:
        parts: Load each part, in the order that they run. Which of them are in memory is this session's
            affair from then on.
        sizes: Bytes that each takes.
        cache_row_bytes: Bytes of one row of all caches.
        memory: Bytes for parts and caches; None means what is available now, less a tenth.

    Raises:
        UnavailableError: The largest part alone does not fit.
        SessionError: A part cannot be loaded: each is once, now.
    """

    def __init__(
        self,
        parts: Sequence[Callable[[], OnnxRuntimeSession]],
        sizes: Sequence[int],
        *,
        cache_row_bytes: int,
        memory: int | None = None,
    ) -> None:
        self._sizes, self._cache_row_bytes = sizes, cache_row_bytes
        self._memory = _room(memory)
        kept = self._kept(1)
        self._parts = [_opened(part, index in kept.staying) for index, part in enumerate(parts)]
        first, last = self._parts[0].limits, self._parts[-1].limits
        self.limits = replace(first, vocab_size=last.vocab_size, last_token_logits=last.last_token_logits)
        self.rows = 0
        self._turns = Turns(self._parts, kept)

    def reset(self, rows: int) -> None:
        """Starts a table of `rows` empty sequences; their caches may leave room for fewer parts."""
        check_rows(self.limits, rows)
        kept = self._kept(rows)
        self._turns.close()
        for index, part in enumerate(self._parts):
            if index not in kept.staying:
                part.unload()
            part.reset(rows)
        self._turns = Turns(self._parts, kept)
        self.rows = rows

    def run(
        self,
        input_ids_BS: Int64Array,
        seq_len_B: Int64Array,
        past_len_B: Int64Array,
        first_row: int = 0,
        *,
        only_last: bool = False,
    ) -> Outputs:
        """Appends tokens to a range of rows; see `Session.run`."""
        check_call(self.limits, self.rows, first_row, input_ids_BS, seq_len_B, past_len_B)
        given: Int64Array | Float32Array = input_ids_BS
        found: Outputs = {}
        for index, part in enumerate(self._parts):
            with self._turns.taken(index):
                outputs = part.run(given, seq_len_B, past_len_B, first_row, only_last=only_last)
                if not self._turns.stays(index):
                    # Copies: an array of ONNX Runtime's keeps all memory of its session, weights included.
                    outputs = {name: np.array(array) for name, array in outputs.items()}
            given = outputs.pop(HIDDEN_OUT, given)
            found |= outputs
        return found

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies the first `tokens` tokens of one row to another."""
        for part in self._parts:
            part.move(source, target, tokens)

    def swap(self, row: int, other: int, tokens: int) -> None:
        """Exchanges the first `tokens` tokens of two rows."""
        for part in self._parts:
            part.swap(row, other, tokens)

    def clear(self, row: int) -> None:
        """Sets one row of every cache to zero."""
        for part in self._parts:
            part.clear(row)

    def close(self) -> None:
        """Frees all parts and their caches."""
        self._turns.close()
        for part in self._parts:
            part.close()

    def _kept(self, rows: int) -> Residency:
        return residency(self._sizes, self._memory - rows * self._cache_row_bytes)


def _opened(part: Callable[[], OnnxRuntimeSession], stays: bool) -> OnnxRuntimeSession:
    session = part()
    if not stays:
        session.unload()
    return session


def _room(memory: int | None) -> int:
    return int((1 - RESERVED_SHARE) * memory_of_machine().available) if memory is None else memory
