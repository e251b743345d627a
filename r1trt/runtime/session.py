"""What a model that is being run looks like, whichever backend runs it.

Legend: B batch, S tokens of one call, V vocabulary, C cache capacity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from r1trt.artifacts.store import read_manifest
from r1trt.errors import R1TrtError

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]


class SessionError(R1TrtError):
    """A call does not fit the session, or the backend failed at it."""


@dataclass(frozen=True, kw_only=True)
class SessionLimits:
    """What one session accepts; None means that the backend sets no limit.

    Attributes:
        vocab_size: Token ids run from 0 to this, exclusive.
        capacity: Rows of the KV cache; None for a scoring graph, which has no cache.
        max_batch_size: Largest batch.
        max_input_len: Most tokens of one call.
        last_token_logits: The graph gives logits of each row's last real token only.
    """

    vocab_size: int
    capacity: int | None
    max_batch_size: int | None
    max_input_len: int | None
    last_token_logits: bool


class LogitsSession(Protocol):
    """A loaded model with its KV caches."""

    @property
    def limits(self) -> SessionLimits:
        """What the session accepts."""
        ...

    def reset(self, batch: int) -> None:
        """Starts `batch` empty sequences: caches of the right size, all zero."""
        ...

    def step(self, input_ids_BS: Int64Array, seq_len_B: Int64Array, past_len_B: Int64Array) -> Float32Array:
        """Appends tokens to every sequence.

        Args:
            input_ids_BS: Token ids, rows padded on the right.
            seq_len_B: How many of the S tokens of each row are real.
            past_len_B: Tokens that the cache already holds.

        Returns:
            Logits `[B, S, V]`, defined for real tokens; `[B, 1, V]` where `limits.last_token_logits`. A later
            call may overwrite them.

        Raises:
            SessionError: The call does not fit the limits, or the backend failed.
        """
        ...

    def close(self) -> None:
        """Frees the model and its caches; the session cannot be used afterwards."""
        ...


def check_step(
    limits: SessionLimits,
    batch: int,
    input_ids_BS: Int64Array,
    seq_len_B: Int64Array,
    past_len_B: Int64Array,
) -> None:
    """Check one call against a session's limits, before any backend sees it.

    Raises:
        SessionError: Says which limit, and by how much.
    """
    _check_shapes(batch, input_ids_BS, seq_len_B, past_len_B)
    S = input_ids_BS.shape[1]
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
    if input_ids_BS.size and not 0 <= input_ids_BS.min() <= input_ids_BS.max() < limits.vocab_size:
        raise SessionError(
            "A token id is not in the vocabulary.",
            found=f"ids from {input_ids_BS.min()} to {input_ids_BS.max()}",
            expected=f"0 to {limits.vocab_size - 1}",
        )


def _check_shapes(
    batch: int, input_ids_BS: Int64Array, seq_len_B: Int64Array, past_len_B: Int64Array
) -> None:
    fits = input_ids_BS.ndim == 2 and input_ids_BS.shape[0] == batch and input_ids_BS.shape[1] > 0
    if not fits or seq_len_B.shape != (batch,) or past_len_B.shape != (batch,):
        raise SessionError(
            "The arrays of a call do not fit the batch that the session was reset to.",
            found=f"input_ids {input_ids_BS.shape}, seq_len {seq_len_B.shape}, past_len {past_len_B.shape}",
            expected=f"[{batch}, S], [{batch}], [{batch}] with S >= 1",
            fix="call reset(batch) first",
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
    # Padding counts: the cache update writes all S rows, real or not.
    longest = int(past_len_B.max()) + S
    if longest > capacity:
        raise SessionError(
            "The KV cache is full.",
            found=f"{int(past_len_B.max())} cached tokens + {S} new ones (padding included) = {longest}",
            expected=f"at most {capacity} tokens (--max-seq-len)",
            fix="shorten the text, or export and build with a larger --max-seq-len",
        )


def check_batch(limits: SessionLimits, batch: int) -> None:
    """Check a batch size.

    Raises:
        SessionError: It is not positive, or above the session's limit.
    """
    if batch < 1 or (limits.max_batch_size is not None and batch > limits.max_batch_size):
        raise SessionError(
            "The batch does not fit the engine.",
            found=batch,
            expected=f"1 to {limits.max_batch_size or 'any'} (--max-batch-size)",
            fix="split the batch, or build with a larger --max-batch-size",
        )


def chunk_size(limits: SessionLimits, chunk: int | None) -> int | None:
    """The tokens to feed a call: `chunk`, but never more than the session accepts; None is no limit."""
    sizes = [size for size in (chunk, limits.max_input_len) if size is not None]
    return min(sizes, default=None)


def prefill_chunks(
    session: LogitsSession, prompts: Sequence[Sequence[int]], chunk: int | None = None
) -> Iterator[tuple[int, Int64Array, Float32Array]]:
    """Reset a session and feed it prompts, `chunk` tokens a call.

    Args:
        session: Where to.
        prompts: One sequence of token ids a row; lengths may differ.
        chunk: Most tokens of a call; None feeds as many as the session accepts.

    Yields:
        Index of the chunk's first token, how many of its tokens are real in every row, and the call's logits.

    Raises:
        SessionError: A prompt is empty or does not fit.
    """
    length_B = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    if not length_B.size or length_B.min() < 1:
        raise SessionError(
            "A prompt has no tokens.", found=f"lengths {length_B.tolist()}", expected="1 or more"
        )
    _check_prompt_room(session.limits, int(length_B.max()))
    session.reset(len(prompts))
    size = chunk_size(session.limits, chunk) or int(length_B.max())
    for start in range(0, int(length_B.max()), size):
        S = min(size, int(length_B.max()) - start)
        seq_len_B = np.clip(length_B - start, 0, S)
        input_ids_BS = np.zeros((len(prompts), S), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            input_ids_BS[row, : seq_len_B[row]] = prompt[start : start + int(seq_len_B[row])]
        yield start, seq_len_B, session.step(input_ids_BS, seq_len_B, np.minimum(length_B, start))


def _check_prompt_room(limits: SessionLimits, length: int) -> None:
    room = limits.capacity if limits.capacity is not None else limits.max_input_len
    if room is not None and length > room:
        raise SessionError(
            "The prompt is longer than the engine's KV cache."
            if limits.capacity is not None
            else "The prompt is longer than one call of this scoring engine.",
            found=f"{length} tokens",
            expected=f"at most {room}",
            fix="shorten the prompt, or export and build with a larger --max-seq-len",
        )


def prefill(
    session: LogitsSession, prompts: Sequence[Sequence[int]], chunk: int | None = None
) -> Float32Array:
    """Feed prompts to an empty session and return the logits `[B, V]` of each prompt's last token."""
    last_BV = np.zeros((len(prompts), session.limits.vocab_size), dtype=np.float32)
    for _, seq_len_B, logits_BSV in prefill_chunks(session, prompts, chunk):
        rows = np.flatnonzero(seq_len_B)
        # A later chunk overwrites the row until its prompt has ended.
        last_BV[rows] = last_token_logits(logits_BSV, np.maximum(seq_len_B, 1))[rows]
    return last_BV


def last_token_logits(logits_BSV: Float32Array, seq_len_B: Int64Array) -> Float32Array:
    """Pick each row's last real token: `[B, S, V]` (or `[B, 1, V]`, which is that token) to `[B, V]`."""
    if logits_BSV.shape[1] == 1:
        return logits_BSV[:, 0]
    return logits_BSV[np.arange(len(logits_BSV)), seq_len_B - 1]


def session_from_engine(engine: Path, *, threads: int | None = None) -> LogitsSession:
    """Load what a build directory holds, by its manifest.

    Args:
        engine: Build directory, or an export directory, whose graph ONNX Runtime runs as it is.
        threads: CPU threads of ONNX Runtime; None leaves it to ONNX Runtime.

    Returns:
        A session on the CPU for `--arch cpu` and for exports, on this machine's GPU for TensorRT engines.

    Raises:
        R1TrtError: The directory is damaged or of another kind.
        UnavailableError: It needs a GPU or a library that is not here.
    """
    from r1trt.runtime.onnxruntime_session import session_from_cpu_engine, session_from_export

    manifest = read_manifest(engine)
    if manifest["kind"] == "export":
        return session_from_export(engine, manifest, threads=threads)
    if manifest["kind"] != "engine":
        raise SessionError(
            "This directory holds nothing that can be run.",
            where=engine,
            found=f"kind {manifest['kind']!r}",
            expected="the directory of a build or of an export",
        )
    if manifest["backend"] == "onnxruntime":
        return session_from_cpu_engine(engine, manifest, threads=threads)
    from r1trt.runtime.tensorrt_session import session_from_tensorrt_engine

    return session_from_tensorrt_engine(engine, manifest)
