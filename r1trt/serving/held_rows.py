"""What the rows of the cache hold that no request has any longer, for prompts that begin with it."""

from __future__ import annotations

from collections.abc import Collection, Sequence


class HeldRows:
    """Tokens whose keys and values stand in rows that are free, and since when.

    Args:
        rows: How many rows there are.
    """

    def __init__(self, rows: int) -> None:
        self._tokens: list[Sequence[int]] = [()] * rows
        self._kept_at = [0] * rows
        self._clock = 0

    def tokens(self, row: int) -> Sequence[int]:
        """What a row holds; nothing where a request has it."""
        return self._tokens[row]

    def keep(self, row: int, tokens: Sequence[int]) -> None:
        """Enters what a row holds from now on."""
        self._clock += 1
        # A row that holds nothing is given away before any other.
        self._tokens[row], self._kept_at[row] = tokens, self._clock if tokens else 0

    def swap(self, row: int, other: int) -> None:
        """Exchanges what two rows hold."""
        tokens, kept_at = self._tokens, self._kept_at
        tokens[row], tokens[other] = tokens[other], tokens[row]
        kept_at[row], kept_at[other] = kept_at[other], kept_at[row]

    def oldest(self, rows: Collection[int]) -> int:
        """The row to give away: one that holds nothing, else the one that was freed first."""
        return min(rows, key=lambda row: (self._kept_at[row], row))
