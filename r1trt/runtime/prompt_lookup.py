"""Drafts of what follows, looked up in what stands there already: no second model guesses.

The last tokens are searched for further up in prompt and answer, and what followed there is the draft. One
call of the model then gives the logits behind each token of it. Tokens are chosen from them in order, with
the same random numbers as without drafts, up to the first that is not the draft's: the logits behind that
one are of another text, and are thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence

from r1trt.errors import ConfigError
from r1trt.runtime.session import SessionLimits

MOST_DRAFTED = 64
"""More would cost more than they save, whatever the engine."""
_LONGEST, _SHORTEST = 3, 2
"""Tokens that are searched for; of one alone almost everything has been there before."""


class PromptLookup:
    """Drafts for one sequence.

    Args:
        prompt_ids: Its beginning.
        most: Tokens of a draft, at most.

    Attributes:
        drafted: Tokens of all drafts.
        accepted: Those of them that the sequence went on with.
    """

    def __init__(self, prompt_ids: Sequence[int], most: int) -> None:
        require_draft_length(most)
        self._tokens = list(prompt_ids)
        self._most = self._length = most
        self._indexed = 0
        self._following: dict[tuple[int, ...], int] = {}
        self._draft: list[int] = []
        self._matched = 0
        self.drafted = 0
        self.accepted = 0

    def add(self, token: int) -> None:
        """The sequence goes on with a token, which may be the draft's next."""
        self._tokens.append(token)
        if self._draft[self._matched : self._matched + 1] == [token]:
            self._matched += 1
            self.accepted += 1
        elif self._matched < len(self._draft):
            self._length = max(self._matched + 1, self._most // 4)
            self._draft, self._matched = [], 0

    def draft(self, room: int) -> list[int]:
        """Tokens that may follow; none where there is nothing to go by. After one that failed it is shorter.

        Args:
            room: Most that are of use.
        """
        if self._draft and self._matched == len(self._draft):
            self._length = self._most
        self._index()
        self._draft, self._matched = self._found(room), 0
        self.drafted += len(self._draft)
        return list(self._draft)

    def _found(self, room: int) -> list[int]:
        for size in range(_LONGEST, _SHORTEST - 1, -1):
            start = self._following.get(tuple(self._tokens[-size:]))
            if start is not None:
                return self._from(start, min(self._length, room))
        return []

    def _index(self) -> None:
        """Enters what each few tokens were followed by last; the end is followed by nothing yet."""
        for end in range(max(self._indexed, 1), len(self._tokens)):
            for size in range(_SHORTEST, min(_LONGEST, end) + 1):
                self._following[tuple(self._tokens[end - size : end])] = end
        self._indexed = len(self._tokens)

    def _from(self, start: int, length: int) -> list[int]:
        """What stands there; where that runs into the end, it goes on with the draft itself."""
        found: list[int] = []
        for place in range(start, start + max(length, 0)):
            beyond = place - len(self._tokens)
            found.append(self._tokens[place] if beyond < 0 else found[beyond])
        return found


def require_draft_length(most: int) -> None:
    """Raises ConfigError for a length out of range."""
    if not 1 <= most <= MOST_DRAFTED:
        raise ConfigError(
            "The drafts of prompt lookup are of another length.",
            found=most,
            expected=f"1 to {MOST_DRAFTED} tokens",
        )


def require_all_logits(last_token_logits: bool, where: object = None) -> None:
    """Refuses an engine that says nothing of the tokens of a draft.

    Args:
        last_token_logits: The engine gives logits of a call's last token only.
        where: The engine.

    Raises:
        ConfigError: It does.
    """
    if last_token_logits:
        raise ConfigError(
            "Prompt lookup needs the logits behind every token of a draft, and this engine gives those of a"
            " call's last token only.",
            where=where,
            fix="export without --last-token-logits, and build again; `cpu` engines are no slower for it",
        )


def most_drafted(limits: SessionLimits, past: int) -> int:
    """Tokens that a call may have beside the one that was chosen last, for a row that holds `past` tokens."""
    capacity = limits.capacity or 0
    return min(capacity - past, limits.max_input_len or capacity) - 1
