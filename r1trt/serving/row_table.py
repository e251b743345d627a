"""Which request holds which row of the cache, and what the other rows hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from r1trt.runtime.prefill import common_beginning
from r1trt.runtime.session import Int64Array
from r1trt.serving.active_request import ActiveRequest
from r1trt.serving.call_sizes import CallSizes
from r1trt.serving.held_rows import HeldRows


@dataclass(frozen=True, kw_only=True)
class Swap:
    """Two rows that change places.

    Attributes:
        row: One.
        other: The other.
        tokens: Tokens that the fuller of them holds.
    """

    row: int
    other: int
    tokens: int


class RowTable:
    """Rows and their requests. A free row keeps what its last request left there until it is given away.

    Args:
        rows: How many.
        pinned: Tokens that stand in a further row, behind these, for good.
        reuse: Requests may begin with what other requests have left, or have, in their rows.
        answers: That includes what was generated.
    """

    def __init__(
        self, rows: int, *, pinned: Sequence[int] = (), reuse: bool = True, answers: bool = False
    ) -> None:
        self._requests: list[ActiveRequest | None] = [None] * rows
        self._order: list[ActiveRequest] = []
        self._held = HeldRows(rows)
        self._pinned = pinned
        self._reuse, self._answers = reuse, answers

    @property
    def is_full(self) -> bool:
        """No row is free."""
        return len(self._order) == len(self._requests)

    def requests(self) -> list[ActiveRequest]:
        """Requests that hold a row, in the order of `defer`."""
        return list(self._order)

    def reading(self) -> list[ActiveRequest]:
        """Requests whose prompt is not read yet, first the one whose turn it is."""
        return [active for active in self._order if active.unread]

    def decoding(self) -> list[ActiveRequest]:
        """Requests that wait for their next token, by row."""
        return [active for active in self._requests if active is not None and active.is_decoding]

    def past(self) -> Int64Array:
        """Tokens that each row holds."""
        tokens = (
            len(self._held.tokens(row)) if active is None else active.past
            for row, active in enumerate(self._requests)
        )
        return np.fromiter(tokens, np.int64)

    def put(self, active: ActiveRequest) -> int:
        """Gives a request a free row, and enters how much of its prompt is there, or in another row.

        It gets the row that holds the longest beginning of its prompt, if that is free and holds little else,
        and otherwise the row that has been free for longest.

        Returns:
            The row that the beginning, `active.past` tokens, is to be copied from; its own where it is there.
        """
        source, tokens = self._longest_beginning(active)
        free = [row for row, other in enumerate(self._requests) if other is None]
        goes_on = source in free and 2 * tokens >= len(self._held.tokens(source))
        active.row = source if goes_on else self._held.oldest(free)
        active.begin_with(tokens)
        self._held.keep(active.row, ())
        self._requests[active.row] = active
        self._order.append(active)
        return source if tokens else active.row

    def defer(self, active: ActiveRequest) -> None:
        """Puts a request behind the others that wait for their prompt to be read."""
        self._order.remove(active)
        self._order.append(active)

    def remove(self, active: ActiveRequest, *, is_sound: bool = True) -> None:
        """Frees a request's row; nothing happens where it has none.

        Args:
            active: The request.
            is_sound: What the row holds is what its tokens give.
        """
        if active in self._order:
            self._order.remove(active)
            self._requests[active.row] = None
            self._held.keep(active.row, self._shared_tokens(active) if is_sound else ())

    def gather(self) -> list[Swap]:
        """Puts the requests' rows side by side: a call computes all rows from its first to its last.

        Returns:
            Rows to exchange, so that what they hold is where the table says.
        """
        used = sorted(active.row for active in self._order)
        if not used or used[-1] - used[0] < len(used):
            return []
        starts = range(len(self._requests) - len(used) + 1)
        first = max(starts, key=lambda row: sum(row <= other < row + len(used) for other in used))
        inside = range(first, first + len(used))
        outside = [row for row in used if row not in inside]
        gaps = [row for row in inside if self._requests[row] is None]
        return [self._swap(row, gap) for row, gap in zip(outside, gaps, strict=True)]

    def reading_group(self, first: ActiveRequest, sizes: CallSizes, capacity: int) -> list[ActiveRequest]:
        """The request whose turn it is and those in the next rows whose prompts fit in its call.

        The rows of a call are padded to the longest, so they share one only where at least half of each is
        real. Each is read as far as it would be alone: where prompts are cut does not depend on neighbours.
        """
        group, pieces = [first], [first.piece(sizes.piece)]
        for active in self._requests[first.row + 1 :]:
            if active is None or not active.unread:
                break
            group.append(active)
            pieces.append(active.piece(sizes.piece))
            S = max(pieces)
            is_full = len(group) * S > sizes.call or max(member.past for member in group) + S > capacity
            if is_full or 2 * min(pieces) < S:
                return group[:-1]
        return group

    def _longest_beginning(self, active: ActiveRequest) -> tuple[int, int]:
        """The row that holds most of a prompt's beginning, and how many tokens of it.

        Of several it is a free one, which needs no copy, and of these the one that holds least else.
        """
        best = (0, False, 0, 0)
        for row, tokens in self._contents():
            common = min(common_beginning(active.request.prompt_ids, tokens), active.most_reused)
            is_free = row < len(self._requests) and self._requests[row] is None
            best = max(best, (common, is_free, -len(tokens), -row))
        return -best[3], best[0]

    def _contents(self) -> Iterator[tuple[int, Sequence[int]]]:
        if self._pinned:
            yield len(self._requests), self._pinned
        if self._reuse:
            for row, active in enumerate(self._requests):
                yield row, self._held.tokens(row) if active is None else self._shared_tokens(active)

    def _shared_tokens(self, active: ActiveRequest) -> Sequence[int]:
        if not self._reuse:
            return ()
        return active.tokens[: active.past] if self._answers else active.tokens[: active.read_as_prompt]

    def _swap(self, row: int, other: int) -> Swap:
        active = self._requests[row]
        assert active is not None and self._requests[other] is None
        swap = Swap(row=row, other=other, tokens=max(active.past, len(self._held.tokens(other))))
        self._requests[row], self._requests[other] = None, active
        self._held.swap(row, other)
        active.row = other
        return swap
