"""One stage: a part of a model in a process of its own, as a Ray actor.

Legend: B rows of one call, S tokens of one call, D hidden size.
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import r1trt
from r1trt.cluster.messages import (
    Message,
    array_of_message,
    is_failure,
    message_of_array,
    message_of_error,
    message_of_loss,
)
from r1trt.errors import R1TrtError
from r1trt.graph.interface import HIDDEN_OUT
from r1trt.runtime.session import LOGITS, SessionError

EDITS = frozenset({"move", "swap", "clear"})


class Stage:
    """A part, and the caches of its layers.

    Whoever loads it gives it a life, a text of their own; every call names the life that it means. Ray starts
    an actor anew when its process has died: it then has no life until it is loaded again, and refuses calls
    that mean the one before, whose caches are gone.

    Args:
        index: Its place among the stages, from 0.
    """

    def __init__(self, index: int) -> None:
        self._index = index
        self._life = ""
        self._calls, self._seconds, self._squares = 0, 0.0, 0.0

    def life(self) -> str:
        """The life that it was given; empty for a stage that is not loaded."""
        return self._life

    def work(self) -> tuple[int, float, float]:
        """Calls that this process has run, their seconds in all, and the sum of the squares of these."""
        return self._calls, self._seconds, self._squares

    def load(self, directory: str, build: str, rows: int, threads: int | None, life: str) -> Message:
        """Loads the part from this machine's disk, and starts a table of empty rows.

        Args:
            directory: The directory that all parts are in; only the stage's own has to be here.
            build: What all parts of the model have in common.
            rows: Of the table.
            threads: CPU threads of ONNX Runtime; None takes one for each core that may be used.
            life: What calls will name.

        Returns:
            The session's limits, this package's version, and the process; or an error.
        """
        # Here, so that a driver which only sends calls does not load the backends.
        from r1trt.cluster.part import session_of_stage

        try:
            self._session = session_of_stage(Path(directory), self._index, build, threads)
            self._session.reset(rows)
        except R1TrtError as error:
            return message_of_error(error)
        self._life = life
        limits = self._session.limits
        return {
            "version": r1trt.__version__,
            "node": platform.node(),
            "process": os.getpid(),
            "vocab_size": limits.vocab_size,
            "capacity": limits.capacity,
            "max_input_len": limits.max_input_len,
            "last_token_logits": limits.last_token_logits,
        }

    def run(self, life: str, call: Message, given: Message) -> Message:
        """Runs the part on a range of rows.

        Args:
            life: The life that is meant.
            call: "seq_len" and "past_len" [B] as lists, "first_row", "only_last", and "is_quiet" where nobody
                wants the result.
            given: Token ids [B, S], or what the stage before it gave [B, S, D]; a failure is handed on.

        Returns:
            The hidden state [B, S, D], or in the last stage logits; or a failure.
        """
        import numpy as np

        if is_failure(given):
            return given
        if life != self._life:
            return message_of_loss(self._index)
        started = time.perf_counter()
        try:
            found = self._session.run(
                array_of_message(given),
                np.array(call["seq_len"], np.int64),
                np.array(call["past_len"], np.int64),
                call["first_row"],
                only_last=call["only_last"],
            )
        except R1TrtError as error:
            return message_of_error(error.within(f"stage {self._index}"))
        self._calls += 1
        seconds = time.perf_counter() - started
        self._seconds += seconds
        self._squares += seconds**2
        if LOGITS in found:
            return {} if call["is_quiet"] else message_of_array(found[LOGITS])
        return message_of_array(found[HIDDEN_OUT])

    def edit(self, life: str, name: str, arguments: list[int]) -> Message:
        """Changes rows of the caches: "move", "swap" or "clear", as a session does; nothing, or a failure."""
        if life != self._life:
            return message_of_loss(self._index)
        if name not in EDITS:
            return message_of_error(SessionError("A stage has no such edit.", found=name))
        getattr(self._session, name)(*arguments)
        return {}
