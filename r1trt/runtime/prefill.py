"""Feeding whole prompts to a session, in calls that it accepts.

Legend: B rows, S tokens of one call, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from r1trt.runtime.session import (
    LOGITS,
    Float32Array,
    Int64Array,
    Outputs,
    Session,
    SessionError,
    SessionLimits,
    last_token_logits,
)


def prefill(
    session: Session, prompts: Sequence[Sequence[int]], chunk: int | None = None, *, held: int = 0
) -> Float32Array:
    """Feed prompts to a session and return the logits `[B, V]` of each prompt's last token."""
    last_BV = np.zeros((len(prompts), session.limits.vocab_size), dtype=np.float32)
    for _, seq_len_B, outputs in prefill_outputs(session, prompts, chunk, held=held, only_last=True):
        rows = np.flatnonzero(seq_len_B)
        # A later chunk overwrites the row until its prompt has ended.
        last_BV[rows] = last_token_logits(outputs[LOGITS], seq_len_B)[rows]
    return last_BV


def prefill_outputs(
    session: Session,
    prompts: Sequence[Sequence[int]],
    chunk: int | None = None,
    *,
    held: int = 0,
    only_last: bool = False,
) -> Iterator[tuple[int, Int64Array, Outputs]]:
    """Feed prompts to a session, `chunk` tokens a call; it is reset before, unless it holds their beginning.

    Args:
        session: Where to.
        prompts: One sequence of token ids a row; lengths may differ.
        chunk: Most tokens of a call; None feeds as many as the session accepts.
        held: First tokens of every prompt that the session's rows hold already; fewer than any prompt has.
        only_last: The logits of each row's last token of a call are enough.

    Yields:
        Index of the chunk's first token, how many of its tokens are real in every row, the call's outputs.

    Raises:
        SessionError: A prompt is empty or does not fit.
    """
    length_B = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    if not length_B.size or length_B.min() < 1:
        raise SessionError(
            "A prompt has no tokens.", found=f"lengths {length_B.tolist()}", expected="1 or more"
        )
    longest = int(length_B.max())
    _check_prompt_room(session.limits, longest)
    if not held:
        session.reset(len(prompts))
    size = min(given for given in (chunk, session.limits.max_input_len, longest) if given is not None)
    for start in range(held, longest, size):
        S = min(size, longest - start)
        seq_len_B = np.clip(length_B - start, 0, S)
        input_ids_BS = np.zeros((len(prompts), S), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            input_ids_BS[row, : seq_len_B[row]] = prompt[start : start + int(seq_len_B[row])]
        past_len_B = np.minimum(length_B, start)
        yield start, seq_len_B, session.run(input_ids_BS, seq_len_B, past_len_B, only_last=only_last)


def common_beginning(tokens: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginnings."""
    pairs = zip(tokens, others, strict=False)
    shorter = min(len(tokens), len(others))
    return next((index for index, (token, other) in enumerate(pairs) if token != other), shorter)


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
