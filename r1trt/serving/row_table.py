"""Which request holds which row of the cache."""

from __future__ import annotations

import numpy as np

from r1trt.runtime.session import Int64Array
from r1trt.serving.active_request import ActiveRequest


class RowTable:
    """Rows and their requests; new requests get the lowest free row, so that rows in use stay together.

    Args:
        rows: How many.
        capacity: Tokens that a row holds.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        self._capacity = capacity
        self._requests: list[ActiveRequest | None] = [None] * rows
        self._order: list[ActiveRequest] = []

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
        return np.array([0 if active is None else active.past for active in self._requests], np.int64)

    def put(self, active: ActiveRequest) -> None:
        """Gives a request the lowest free row."""
        active.row = self._requests.index(None)
        self._requests[active.row] = active
        self._order.append(active)

    def defer(self, active: ActiveRequest) -> None:
        """Puts a request behind the others that wait for their prompt to be read."""
        self._order.remove(active)
        self._order.append(active)

    def remove(self, active: ActiveRequest) -> None:
        """Frees a request's row; nothing happens where it has none."""
        if active in self._order:
            self._order.remove(active)
            self._requests[active.row] = None

    def close_gap(self) -> tuple[int, int, int] | None:
        """Gives the request in the highest row a lower one that is free.

        A call computes every row between the first and the last one in use.

        Returns:
            Old row, new row and how many tokens are to be copied; None where there is no gap.
        """
        if not self._order:
            return None
        free = self._requests.index(None) if not self.is_full else len(self._requests)
        active = max(self._order, key=lambda request: request.row)
        if free > active.row:
            return None
        move = (active.row, free, active.past)
        self._requests[active.row], self._requests[free] = None, active
        active.row = free
        return move

    def reading_group(self, first: ActiveRequest, chunk: int) -> list[ActiveRequest]:
        """The request whose turn it is and those in the next rows whose short prompts fit in its call.

        The rows of a call are padded to the longest, so a neighbour joins only where at least half of its row
        is real, and only with the rest of its prompt: where prompts are cut does not depend on neighbours.
        """
        S = min(chunk, first.unread)
        group = [first]
        for active in self._requests[first.row + 1 : first.row + chunk // S]:
            if active is None or active.is_decoding or not S <= 2 * active.unread <= 2 * S:
                break
            if active.past + S > self._capacity:
                break
            group.append(active)
        return group
