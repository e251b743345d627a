"""Checks of a call against a session's limits, before any backend sees it.

Legend: B rows of one call, S tokens of one call, D hidden size.
"""

from __future__ import annotations

from r1trt.runtime.session import Float32Array, Int64Array, SessionError, SessionLimits
from r1trt.text import size_text

_IDS_RANK, _HIDDEN_RANK = 2, 3


def check_call(
    limits: SessionLimits,
    rows: int,
    first_row: int,
    given: Int64Array | Float32Array,
    seq_len_B: Int64Array,
    past_len_B: Int64Array,
) -> None:
    """Check one call on a range of the table's rows.

    Args:
        limits: Of the session.
        rows: Of its table.
        first_row: The call's first row.
        given: Token ids [B,S], or the hidden state [B,S,D] that a part of a model gets.
        seq_len_B: Real tokens of each row.
        past_len_B: Tokens that each row holds.

    Raises:
        SessionError: Says which limit, and by how much.
    """
    _check_shapes(rows, first_row, given, seq_len_B, past_len_B)
    if first_row and not limits.addressable_rows:
        raise SessionError(
            "A call of this engine has to begin at the table's first row.", found=f"row {first_row}"
        )
    S = given.shape[1]
    if limits.max_input_len is not None and limits.max_input_len < S:
        raise SessionError(
            "One call has more tokens than the engine accepts.",
            found=S,
            expected=f"at most {limits.max_input_len} tokens (--max-input-len)",
            fix="feed the prompt in chunks",
        )
    if ((seq_len_B < 0) | (seq_len_B > S)).any() or (past_len_B < 0).any():
        raise SessionError(
            "Sequence lengths do not fit the call.",
            found=f"seq_len {seq_len_B.tolist()}, past_len {past_len_B.tolist()}",
            expected=f"seq_len from 0 to {S}, past_len from 0",
        )
    _check_room(limits.capacity, S, past_len_B)
    if given.ndim == _IDS_RANK:
        _check_ids(limits, given)


def _check_shapes(
    rows: int,
    first_row: int,
    given: Int64Array | Float32Array,
    seq_len_B: Int64Array,
    past_len_B: Int64Array,
) -> None:
    B = given.shape[0] if given.ndim else 0
    fits = given.ndim in (_IDS_RANK, _HIDDEN_RANK) and given.size and 0 <= first_row <= rows - B
    if not fits or seq_len_B.shape != (B,) or past_len_B.shape != (B,):
        raise SessionError(
            "The arrays of a call do not fit each other, or the batch that the session was reset to.",
            found=f"input {given.shape}, seq_len {seq_len_B.shape}, past_len {past_len_B.shape}"
            f" from row {first_row}",
            expected=f"[B, S] or [B, S, D], [B], [B] with S >= 1, and rows from 0 to {rows - 1}",
            fix="call reset(rows) first",
        )


def _check_ids(limits: SessionLimits, input_ids_BS: Int64Array | Float32Array) -> None:
    if not 0 <= input_ids_BS.min() <= input_ids_BS.max() < limits.vocab_size:
        raise SessionError(
            "A token id is not in the vocabulary.",
            found=f"ids from {input_ids_BS.min()} to {input_ids_BS.max()}",
            expected=f"0 to {limits.vocab_size - 1}",
        )


def _check_room(capacity: int | None, S: int, past_len_B: Int64Array) -> None:
    if capacity is None:
        if past_len_B.any():
            raise SessionError(
                "A scoring graph has no KV cache: it sees whole prompts only.",
                found=f"past_len {past_len_B.tolist()}",
                expected="past_len 0 in every row",
                fix="build without --no-cache to generate or to feed prompts in chunks",
            )
        return
    # Padding counts: the cache update writes all S tokens, real or not.
    longest = int(past_len_B.max()) + S
    if longest > capacity:
        raise SessionError(
            "The KV cache is full.",
            found=f"{int(past_len_B.max())} cached tokens + {S} new ones (padding included) = {longest}",
            expected=f"at most {capacity} tokens (--max-seq-len)",
            fix="shorten the text, or export and build with a larger --max-seq-len",
        )


def check_rows(limits: SessionLimits, rows: int) -> None:
    """Check the size of a table.

    Raises:
        SessionError: It is not positive, or above the session's limit.
    """
    if rows < 1 or (limits.max_batch_size is not None and rows > limits.max_batch_size):
        raise SessionError(
            "The batch does not fit the engine.",
            found=rows,
            expected=f"1 to {limits.max_batch_size or 'any'} (--max-batch-size)",
            fix="split the batch, or build with a larger --max-batch-size",
        )


def check_cache_memory(limits: SessionLimits, rows: int, *, needed: int, room: int, memory: str) -> None:
    """Check that a table's caches can be held at all.

    Args:
        limits: Of the session.
        rows: Of the table.
        needed: Bytes of all caches.
        room: Bytes that there are for them.
        memory: Which memory that is, for the message.

    Raises:
        SessionError: They cannot; says which options make them smaller.
    """
    if needed > room:
        raise SessionError(
            f"The KV cache does not fit into {memory}.",
            found=f"{size_text(needed)} for {rows} x {limits.capacity} tokens",
            expected=f"at most {size_text(room)}",
            fix="build with a smaller --max-seq-len" + (", or take fewer --rows" if rows > 1 else ""),
        )
