"""A range of the stages' rows as one session: a call goes through all stages, and survives the loss of one.

A stage that died has lost the caches of its layers. Each row that a later call needs is then read again, by
all stages, in the calls that it was read in before; these follow each other through the stages without
waiting, since their tokens are known. Calls write where `past_len` says, so that a call may be made twice.

Legend: B rows of one call, S tokens of one call, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from r1trt.cluster.messages import Message
from r1trt.cluster.row_history import RowHistory
from r1trt.cluster.stages import StageLostError, Stages
from r1trt.runtime.session import LOGITS, Int64Array, Outputs, Session, SessionError
from r1trt.runtime.session_checks import check_call, check_rows

_ATTEMPTS, _UNDER_WAY = 4, 32


class ClusterSession(Session):
    """Some of the stages' rows, for one thread.

    Args:
        stages: All stages.
        first_row: The first of its rows in the stages' tables.
        most_rows: How many there are.
    """

    def __init__(self, stages: Stages, first_row: int = 0, most_rows: int = 1) -> None:
        self._stages, self._first_row = stages, first_row
        self.limits = replace(stages.limits, max_batch_size=most_rows)
        self.rows = 0
        self._histories: list[RowHistory] = []

    def reset(self, rows: int) -> None:
        """Starts a table of `rows` empty sequences."""
        check_rows(self.limits, rows)
        for row in range(rows):
            self._edit("clear", row)
        self._histories = [RowHistory() for _ in range(rows)]
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
        """Appends tokens to a range of rows; see `Session.run`.

        Raises:
            SessionError: The call does not fit the limits, a stage failed, or one was lost again and again.
            UnavailableError: A stage that died does not come back.
        """
        check_call(self.limits, self.rows, first_row, input_ids_BS, seq_len_B, past_len_B)
        call = self._call(seq_len_B, past_len_B, first_row, only_last=only_last)
        for _ in range(_ATTEMPTS):
            try:
                epoch = self._stages.epoch
                self._restore(first_row, seq_len_B, past_len_B, epoch)
                logits = self._stages.result(self._stages.sent(call, input_ids_BS, epoch))
            except StageLostError as error:
                lost = error
                self._stages.recover(error.epoch)
            else:
                self._record(input_ids_BS, seq_len_B, past_len_B, first_row, epoch)
                assert logits is not None, "a call that is not quiet has logits"
                return {LOGITS: np.array(logits)}  # its own memory: a message's cannot be written to
        raise SessionError(
            f"A stage was lost {_ATTEMPTS} times in one call.",
            found=lost.message,
            fix="look at the logs of its node: it may have too little memory",
        )

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies the first `tokens` tokens of one row to another."""
        self._edit("move", source, target, tokens=tokens)
        self._histories[target] = self._histories[source].copy(tokens)

    def swap(self, row: int, other: int, tokens: int) -> None:
        """Exchanges the first `tokens` tokens of two rows."""
        self._edit("swap", row, other, tokens=tokens)
        first, second = self._histories[row].copy(tokens), self._histories[other].copy(tokens)
        self._histories[row], self._histories[other] = second, first

    def clear(self, row: int) -> None:
        """Sets one row of every cache to zero."""
        self._edit("clear", row)
        self._histories[row] = RowHistory()

    def close(self) -> None:
        """Gives the rows back; the stages go on."""
        self._histories, self.rows = [], 0

    def _edit(self, name: str, *rows: int, tokens: int | None = None) -> None:
        arguments = [self._first_row + row for row in rows] + ([] if tokens is None else [tokens])
        try:
            self._stages.edit(name, *arguments)
        except StageLostError as error:
            # All rows are read again before they are used, so that it does not matter who has done it.
            self._stages.recover(error.epoch)

    def _call(
        self,
        seq_len_B: Iterable[int],
        past_len_B: Iterable[int],
        first_row: int,
        *,
        only_last: bool,
        is_quiet: bool = False,
    ) -> Message:
        return {
            "seq_len": [int(size) for size in seq_len_B],
            "past_len": [int(size) for size in past_len_B],
            "first_row": self._first_row + first_row,
            "only_last": only_last,
            "is_quiet": is_quiet,
        }

    def _restore(self, first_row: int, seq_len_B: Int64Array, past_len_B: Int64Array, epoch: int) -> None:
        """Reads the rows again that a call goes on with and that a lost stage had; raises StageLostError."""
        for place in np.flatnonzero((seq_len_B > 0) & (past_len_B > 0)).tolist():
            history = self._histories[first_row + place]
            if history.epoch != epoch:
                self._read_again(first_row + place, history.pieces(int(past_len_B[place])), epoch)
                history.epoch = epoch

    def _read_again(self, row: int, pieces: list[tuple[int, list[int]]], epoch: int) -> None:
        under_way: deque[tuple[int, list[object]]] = deque()
        for start, tokens in pieces:
            call = self._call([len(tokens)], [start], row, only_last=True, is_quiet=True)
            under_way.append(self._stages.sent(call, np.array([tokens], np.int64), epoch))
            if len(under_way) > _UNDER_WAY:
                self._stages.result(under_way.popleft())
        while under_way:
            self._stages.result(under_way.popleft())

    def _record(
        self,
        input_ids_BS: Int64Array,
        seq_len_B: Int64Array,
        past_len_B: Int64Array,
        first_row: int,
        epoch: int,
    ) -> None:
        for place, history in enumerate(self._histories[first_row : first_row + len(seq_len_B)]):
            new, past = int(seq_len_B[place]), int(past_len_B[place])
            if not new:
                continue  # it keeps its sequence
            if not past:
                history.epoch = epoch
            history.cut(past)
            history.append(input_ids_BS[place, :new].tolist())
