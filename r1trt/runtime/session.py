"""What a model that is being run looks like, whichever backend runs it and whatever it is run for.

A session holds a table of rows. A row is one sequence's place in the KV cache; a call names a range of
neighbouring rows, and the caches of that range are bound where they lie, so that a prompt can be read on one
row while the others wait untouched. Generation and validation use a table of one row.

Legend: B rows of one call, S tokens of one call, V vocabulary, C cache capacity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from r1trt.errors import R1TrtError
from r1trt.graph.interface import LOGITS as LOGITS

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
Outputs = dict[str, Float32Array]

_CACHE, _CACHE_OUTPUT = "_cache.", "_cache_out."


class SessionError(R1TrtError):
    """A call does not fit the session, or the backend failed at it."""


@dataclass(frozen=True, kw_only=True)
class SessionLimits:
    """What one session accepts; None means that the backend sets no limit.

    Attributes:
        vocab_size: Token ids run from 0 to this, exclusive.
        capacity: Tokens that a row of the KV cache holds; None for a scoring graph, which has no cache.
        max_batch_size: Most rows of the table, and of one call.
        max_input_len: Most tokens of one call.
        last_token_logits: The graph gives logits of each row's last real token only.
        addressable_rows: A call may begin at any row; otherwise only at the first.
    """

    vocab_size: int
    capacity: int | None
    max_batch_size: int | None
    max_input_len: int | None
    last_token_logits: bool
    addressable_rows: bool = True


class Session(Protocol):
    """A loaded model with its KV caches.

    Attributes:
        limits: What the session accepts.
        rows: Rows of the table; 0 before the first `reset`.
    """

    limits: SessionLimits
    rows: int

    def reset(self, rows: int) -> None:
        """Starts a table of `rows` empty sequences: caches of the right size, all zero."""
        ...

    def run(
        self,
        input_ids_BS: Int64Array,
        seq_len_B: Int64Array,
        past_len_B: Int64Array,
        first_row: int = 0,
        *,
        only_last: bool = False,
    ) -> Outputs:
        """Appends tokens to the rows `first_row` to `first_row + B`, exclusive.

        Args:
            input_ids_BS: Token ids, padded on the right.
            seq_len_B: How many of the S tokens of each row are real; a row with 0 keeps its sequence.
            past_len_B: Tokens that each row holds. The padding is written too, after them.
            first_row: The range's first row.
            only_last: The logits of each row's last real token are enough; a backend may give more.

        Returns:
            "logits" `[B, S, V]`, defined for real tokens, or `[B, 1, V]` where `limits.last_token_logits`, or
            where only the last are wanted and the backend can leave the others out; and further outputs that
            the session was loaded with, by name. A later call may overwrite them.

        Raises:
            SessionError: The call does not fit the limits, or the backend failed.
        """
        ...

    def step(
        self,
        input_ids_BS: Int64Array,
        seq_len_B: Int64Array,
        past_len_B: Int64Array,
        first_row: int = 0,
        *,
        only_last: bool = False,
    ) -> Float32Array:
        """Like `run`, but returns only the logits."""
        return self.run(input_ids_BS, seq_len_B, past_len_B, first_row, only_last=only_last)[LOGITS]

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies the first `tokens` tokens of one row to another."""
        ...

    def swap(self, row: int, other: int, tokens: int) -> None:
        """Exchanges the first `tokens` tokens of two rows."""
        ...

    def clear(self, row: int) -> None:
        """Sets one row of every cache to zero."""
        ...

    def close(self) -> None:
        """Frees the model and its caches; the session cannot be used afterwards."""
        ...


def is_cache_input(name: str) -> bool:
    """Whether a graph's input is a KV cache, such as "key_cache.0"."""
    return _CACHE in name


def cache_output(name: str) -> str:
    """The output that is the same cache after a call: "key_cache_out.0" of "key_cache.0"."""
    return name.replace(_CACHE, _CACHE_OUTPUT)


def last_token_logits(logits_BSV: Float32Array, seq_len_B: Int64Array) -> Float32Array:
    """Pick each row's last real token: `[B, S, V]`, or `[B, 1, V]`, which is that token, to `[B, V]`."""
    if logits_BSV.shape[1] == 1:
        return logits_BSV[:, 0]
    picked: Float32Array = logits_BSV[np.arange(len(logits_BSV)), np.maximum(seq_len_B, 1) - 1]
    return picked
