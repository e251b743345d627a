"""Texts in the forms that OpenAI's clients read: whole, and in pieces that are together the whole."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest

from r1trt.openai.choices import ChatChoice, Choice, CompletionChoice
from r1trt.openai.model_client import Piece
from r1trt.openai.tool_calls import ToolCallSplitter

ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "é": [2]}}\n</tool_call>'
NOW = '<tool_call>{"name": "now"}</tool_call>'
# Text, what of it is content, and names and arguments of the calls.
CALLS: dict[str, tuple[str, str, list[tuple[str, Any]]]] = {
    "none": ("It is 3 < 4.", "It is 3 < 4.", []),
    "one": (ADD, "", [("add", {"a": 1, "é": [2]})]),
    "two, and text": (
        f"Let me see.\n{ADD}\n{NOW}\n",
        "Let me see.",
        [("add", {"a": 1, "é": [2]}), ("now", {})],
    ),
    "text behind": (f"{NOW}\n\nDone. ", "\n\nDone.", [("now", {})]),
    "never closed": (ADD.removesuffix("</tool_call>"), "", [("add", {"a": 1, "é": [2]})]),
    "arguments as a text": ('<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', "", [("f", {})]),
    "no JSON": ("<tool_call>add(1)</tool_call>", "<tool_call>add(1)</tool_call>", []),
    "no name": ('<tool_call>{"a": 1}</tool_call> x', '<tool_call>{"a": 1}</tool_call> x', []),
    "a list": ("<tool_call>[1]</tool_call>", "<tool_call>[1]</tool_call>", []),
    "nested": ("<tool_call>" + "[" * 100_000, "<tool_call>" + "[" * 100_000, []),
    "ends in a tag": ("a <tool_ca", "a <tool_ca", []),
    "white space alone": (" \n", " \n", []),
}


def cuts(text: str) -> list[list[str]]:
    generator = random.Random(text[:100])
    found = [[text], list(text)] if len(text) < 1000 else [[text], [text[:50], text[50:]]]
    for _ in range(30):
        ends = sorted(generator.choices(range(len(text) + 1), k=4))
        found.append([text[start:end] for start, end in itertools.pairwise([0, *ends, len(text)])])
    return found


def piece(text: str = "", **values: Any) -> Piece:
    return Piece(**{"text": text, "input_tokens": 5, "output_tokens": 1, "finish_reason": "", **values})


@pytest.mark.parametrize("case", CALLS)
def test_calls_are_told_apart_however_the_text_is_cut(case: str) -> None:
    text, content, calls = CALLS[case]
    for pieces in cuts(text):
        splitter = ToolCallSplitter()
        parts = [*map(splitter.push, pieces), splitter.finish()]
        assert "".join(part for part, _ in parts) == content, pieces
        found = [call for _, some in parts for call in some]
        functions = [call["function"] for call in found]
        assert [(one["name"], json.loads(one["arguments"])) for one in functions] == calls, pieces
        assert [call["index"] for call in found] == list(range(len(calls)))
        assert len({call["id"] for call in found}) == len(calls)


def of_stream(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client makes of the pieces of a chat."""
    message: dict[str, Any] = {}
    for chunk in chunks:
        for name, value in chunk["delta"].items():
            message[name] = message[name] + value if name in message else value
    return message


def through(choice: Choice, pieces: list[Piece]) -> list[dict[str, Any]]:
    return [chunk for one in pieces if (chunk := choice.push(one)) is not None]


def test_thinking_goes_under_both_names() -> None:
    pieces = [piece(thinking="hm"), piece(), piece("4", thinking=" so"), piece("2", finish_reason="eos")]
    choice = ChatChoice(1, has_logprobs=False, has_tools=False)
    chunks = through(choice, pieces)
    assert [chunk["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    expected = {"role": "assistant", "content": "42", "reasoning_content": "hm so", "reasoning": "hm so"}
    assert of_stream(chunks) == expected
    assert choice.whole() == {"index": 1, "message": expected, "logprobs": None, "finish_reason": "stop"}


def test_calls_end_an_answer_for_a_reason_of_their_own() -> None:
    choice = ChatChoice(0, has_logprobs=False, has_tools=True)
    chunks = through(choice, [piece("<tool_call>"), piece('{"name": "now"}'), piece(finish_reason="eos")])
    assert [chunk["finish_reason"] for chunk in chunks] == [None, "tool_calls"]
    (call,) = of_stream(chunks)["tool_calls"]
    whole = choice.whole()
    assert whole["message"]["content"] is None and whole["finish_reason"] == "tool_calls"
    assert whole["message"]["tool_calls"] == [{name: call[name] for name in ("id", "type", "function")}]


def test_tags_are_text_where_there_are_no_tools() -> None:
    choice = ChatChoice(0, has_logprobs=False, has_tools=False)
    through(choice, [piece(NOW, finish_reason="length")])
    assert choice.whole()["message"] == {"role": "assistant", "content": NOW}
    assert choice.whole()["finish_reason"] == "length"


def test_an_empty_answer_is_a_text() -> None:
    choice = ChatChoice(0, has_logprobs=False, has_tools=False)
    assert through(choice, [piece(finish_reason="eos")])[0]["delta"] == {"role": "assistant", "content": ""}
    assert choice.whole()["message"]["content"] == ""


def entry(token: str, logprob: float | None, *top: tuple[str, float]) -> dict[str, Any]:
    others = [{"token": text, "logprob": number, "bytes": [*text.encode()]} for text, number in top]
    return {"token": token, "logprob": logprob, "bytes": [*token.encode()], "top_logprobs": others}


ENTRIES = [
    entry("The", None),
    entry(" cap", -2.5, (" cat", -0.5), (" cap", -2.5)),
    entry("\ufffd", -1.0, ("\ufffd", -0.25), ("\ufffd", -1.0), ("x", -3.0)),
    entry("!", -0.125, ("!", -0.125)),
]


def test_log_probabilities_of_chats_come_with_their_tokens() -> None:
    choice = ChatChoice(0, has_logprobs=True, has_tools=False)
    pieces = [
        piece("a", logprobs=[ENTRIES[1]]),
        piece(logprobs=[ENTRIES[2]]),
        piece("b", finish_reason="eos"),
    ]
    chunks = through(choice, pieces)
    assert [chunk["logprobs"]["content"] for chunk in chunks] == [[ENTRIES[1]], [ENTRIES[2]], []]
    assert choice.whole()["logprobs"] == {"content": ENTRIES[1:3]}


def test_log_probabilities_of_completions_are_lists() -> None:
    choice = CompletionChoice(0, has_logprobs=True)
    pieces = [
        piece("The cap", logprobs=ENTRIES[:2]),
        piece("!", logprobs=ENTRIES[2:], finish_reason="length"),
    ]
    chunks = through(choice, pieces)
    whole = choice.whole()
    assert whole["text"] == "The cap!" and whole["finish_reason"] == "length"
    assert whole["logprobs"] == {
        "tokens": ["The", " cap", "\ufffd", "!"],
        "token_logprobs": [None, -2.5, -1.0, -0.125],
        "top_logprobs": [None, {" cat": -0.5, " cap": -2.5}, {"\ufffd": -0.25, "x": -3.0}, {"!": -0.125}],
        "text_offset": [0, 3, 7, 8],
    }
    for name, values in whole["logprobs"].items():
        assert [value for chunk in chunks for value in chunk["logprobs"][name]] == values
