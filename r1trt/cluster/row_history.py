"""What a row of the caches was made of, so that it can be made again: tokens, and the calls that read them.

Kernels for one token compute in another order than those for many, so that a row is only the same again if
its tokens are read in the calls that they were read in before.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class RowHistory:
    """One row.

    Attributes:
        tokens: Token ids, from the first.
        calls: How many of them each call read.
        epoch: That of the stages when the row was last whole on all of them.
    """

    tokens: list[int] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    epoch: int = 0

    def cut(self, tokens: int) -> None:
        """Forgets all but the first tokens."""
        del self.tokens[tokens:]
        while self.calls and sum(self.calls) > tokens:
            last = self.calls.pop()
            if (left := tokens - sum(self.calls)) > 0:
                self.calls.append(min(left, last))

    def append(self, tokens: list[int]) -> None:
        """Enters what one call has read."""
        if tokens:
            self.tokens += tokens
            self.calls.append(len(tokens))

    def copy(self, tokens: int) -> RowHistory:
        """The history of a row that got the first tokens of this one."""
        other = RowHistory(list(self.tokens), list(self.calls), self.epoch)
        other.cut(tokens)
        return other

    def pieces(self, tokens: int) -> list[tuple[int, list[int]]]:
        """The calls that the first tokens were read in: where each begins, and its token ids."""
        whole, found, start = self.copy(tokens), [], 0
        for size in whole.calls:
            found.append((start, whole.tokens[start : start + size]))
            start += size
        return found
