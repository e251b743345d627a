"""Calls of tools in a model's answer, told apart as it comes."""

from __future__ import annotations

import json
import secrets
from typing import Any

from r1trt.tokenizer.stop_texts import unfinished_length
from r1trt.tokenizer.tools import CALL_CLOSE, CALL_OPEN

ToolCall = dict[str, Any]


class ToolCallSplitter:
    """Passes text through, and takes out of it what stands between the tags of a call.

    White space around calls is dropped; what stands between the tags and is no call is text.
    """

    def __init__(self) -> None:
        self._is_inside = False
        self._held = ""
        self.count = 0

    def push(self, piece: str) -> tuple[str, list[ToolCall]]:
        """Takes text; returns the text and the calls that are certain by now."""
        text, calls = "", list[ToolCall]()
        rest = self._held + piece
        while (start := rest.find(self._wanted)) >= 0:
            before, rest = rest[:start], rest[start + len(self._wanted) :]
            if self._is_inside:
                call = self._call(before)
                text += f"{CALL_OPEN}{before}{CALL_CLOSE}" if call is None else ""
                calls += [] if call is None else [call]
            else:
                text += before.rstrip()
            self._is_inside = not self._is_inside
        if self._is_inside:
            self._held = rest
            return text, calls
        certain = rest[: len(rest) - unfinished_length(rest, (CALL_OPEN,))].rstrip()
        self._held = rest[len(certain) :]
        return text + certain, calls

    def finish(self) -> tuple[str, list[ToolCall]]:
        """Returns what was held back; a call may lack its closing tag."""
        held, self._held = self._held, ""
        if not self._is_inside:
            return ("", []) if self.count and held.isspace() else (held, [])
        call = self._call(held)
        return (f"{CALL_OPEN}{held}", []) if call is None else ("", [call])

    @property
    def _wanted(self) -> str:
        return CALL_CLOSE if self._is_inside else CALL_OPEN

    def _call(self, text: str) -> ToolCall | None:
        try:
            call = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return None
        arguments = call.get("arguments", {})
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        self.count += 1
        return {
            "index": self.count - 1,
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": call["name"], "arguments": arguments},
        }
