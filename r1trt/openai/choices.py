"""One text of an answer, in the forms that OpenAI's clients read: whole, or piece by piece."""

from __future__ import annotations

from typing import Any, Protocol

from r1trt.openai.model_client import Piece
from r1trt.openai.tool_calls import ToolCall, ToolCallSplitter

_FINISH_REASONS = {"eos": "stop", "stop": "stop", "length": "length"}


class Choice(Protocol):
    """Takes one text as it comes."""

    def push(self, piece: Piece) -> dict[str, Any] | None:
        """Takes a response; returns what a stream sends of it, None where that is nothing."""
        ...

    def whole(self) -> dict[str, Any]:
        """Returns all that came."""
        ...


class ChatChoice:
    """An answer in a conversation.

    Args:
        index: Of the choice.
        has_logprobs: How likely tokens are was asked for.
        has_tools: The model may call tools.
    """

    def __init__(self, index: int, *, has_logprobs: bool, has_tools: bool) -> None:
        self._index, self._has_logprobs = index, has_logprobs
        self._tools = ToolCallSplitter() if has_tools else None
        self._texts: list[str] = []
        self._thinking: list[str] = []
        self._calls: list[ToolCall] = []
        self._logprobs: list[dict[str, Any]] = []
        self._finish_reason: str | None = None
        self._has_begun = False

    def push(self, piece: Piece) -> dict[str, Any] | None:
        """See Choice."""
        text, calls = self._told_apart(piece)
        self._texts.append(text)
        self._thinking.append(piece.thinking)
        self._calls += calls
        self._logprobs += piece.logprobs
        if piece.finish_reason:
            reason = _FINISH_REASONS[piece.finish_reason]
            self._finish_reason = "tool_calls" if self._calls else reason
        return self._chunk(piece, text, calls)

    def whole(self) -> dict[str, Any]:
        """See Choice."""
        text, thinking = "".join(self._texts), "".join(self._thinking)
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if self._calls else "")}
        if thinking:
            message |= _thinking(thinking)
        if self._calls:
            message["tool_calls"] = [_without_index(call) for call in self._calls]
        logprobs = {"content": self._logprobs} if self._has_logprobs else None
        return {
            "index": self._index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": self._finish_reason,
        }

    def _told_apart(self, piece: Piece) -> tuple[str, list[ToolCall]]:
        if self._tools is None:
            return piece.text, []
        text, calls = self._tools.push(piece.text)
        if piece.finish_reason:
            rest, more = self._tools.finish()
            return text + rest, calls + more
        return text, calls

    def _chunk(self, piece: Piece, text: str, calls: list[ToolCall]) -> dict[str, Any] | None:
        delta: dict[str, Any] = {} if self._has_begun else {"role": "assistant", "content": ""}
        if piece.thinking:
            delta |= _thinking(piece.thinking)
        if text:
            delta["content"] = text
        if calls:
            delta["tool_calls"] = calls
        if not delta and not piece.logprobs and not piece.finish_reason:
            return None
        self._has_begun = True
        chunk = {"index": self._index, "delta": delta, "finish_reason": self._finish_reason}
        if self._has_logprobs:
            chunk["logprobs"] = {"content": list(piece.logprobs)}
        return chunk


class CompletionChoice:
    """What follows a prompt.

    Args:
        index: Of the choice.
        has_logprobs: How likely tokens are was asked for.
    """

    def __init__(self, index: int, *, has_logprobs: bool) -> None:
        self._index, self._has_logprobs = index, has_logprobs
        self._texts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._finish_reason: str | None = None
        self._offset = 0

    def push(self, piece: Piece) -> dict[str, Any] | None:
        """See Choice."""
        self._texts.append(piece.text)
        self._logprobs += piece.logprobs
        self._finish_reason = _FINISH_REASONS[piece.finish_reason] if piece.finish_reason else None
        if not piece.text and not piece.logprobs and not piece.finish_reason:
            return None
        logprobs = list(piece.logprobs)
        chunk = self._content(piece.text, logprobs, self._offset)
        self._offset += sum(len(entry["token"]) for entry in logprobs)
        return chunk

    def whole(self) -> dict[str, Any]:
        """See Choice."""
        return self._content("".join(self._texts), self._logprobs, 0)

    def _content(self, text: str, logprobs: list[dict[str, Any]], offset: int) -> dict[str, Any]:
        return {
            "index": self._index,
            "text": text,
            "logprobs": _older_logprobs(logprobs, offset) if self._has_logprobs else None,
            "finish_reason": self._finish_reason,
        }


def _thinking(text: str) -> dict[str, str]:
    """Under both names that clients read."""
    return {"reasoning_content": text, "reasoning": text}


def _without_index(call: ToolCall) -> ToolCall:
    return {name: value for name, value in call.items() if name != "index"}


def _older_logprobs(entries: list[dict[str, Any]], offset: int) -> dict[str, Any]:
    """The form of completions; a prompt's first token has no numbers."""
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [_top(entry) for entry in entries],
        "text_offset": offsets,
    }


def _top(entry: dict[str, Any]) -> dict[str, float] | None:
    """By text; of tokens that are spelled alike, and of parts of characters, the most likely one."""
    if entry["logprob"] is None:
        return None
    top: dict[str, float] = {}
    for other in entry["top_logprobs"]:
        top.setdefault(other["token"], other["logprob"])
    return top
