"""Thinking and answer told apart, however the text is cut into tokens."""

from __future__ import annotations

import itertools
import random
import re
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers.models import WordLevel

from r1trt.errors import ConfigError
from r1trt.runtime.continuation import Continuation
from r1trt.runtime.sampling import SamplingConfig
from r1trt.tokenizer.text_tokenizer import TextTokenizer
from r1trt.tokenizer.thinking import (
    THINKING_MODES,
    Part,
    ThinkingMode,
    ThinkingSplitter,
    ThinkingView,
    opens_thinking,
)

# Text, whether it begins inside, its thinking and its answer without the white space behind tags.
CASES = {
    "no tags": ("1 < 2 > 0", False, "", "1 < 2 > 0"),
    "empty": ("", False, "", ""),
    "thinking, then an answer": ("<think>\nhm\n</think>\n\n4", False, "hm\n", "4"),
    "text before": ("Well. <think>hm</think> 4 ", False, "hm", "Well. 4 "),
    "twice": ("<think>a</think>b<think> c</think> d", False, "ac", "bd"),
    "nothing thought": ("<think>\n\n</think>\n\n4", False, "", "4"),
    "never closed": ("<think>\nand then", False, "and then", ""),
    "opened by the prompt": ("hm\n</think>\n\n4", True, "hm\n", "4"),
    "opened by the prompt, white space left to the model": ("\n\nhm</think>4", True, "hm", "4"),
    "opened by the prompt, never closed": ("hm", True, "hm", ""),
    "ends inside the closing tag": ("<think>a</thi", False, "a</thi", ""),
    "ends inside the opening tag": ("4<th", False, "", "4<th"),
    "tags that change nothing": ("</think>a<think>b<think>c</think>", False, "b<think>c", "</think>a"),
    "false starts": ("<<think>a</</think></ think></think>", False, "a</", "<</ think></think>"),
    "white space alone behind a tag": ("<think> \n", False, "", ""),
}


def joined(parts: list[Part]) -> list[tuple[str, str]]:
    """Neighbours of one kind as one; each tag by itself."""
    whole: list[tuple[str, str]] = []
    for part in parts:
        if whole and whole[-1][0] == part.kind != "tag":
            whole[-1] = (part.kind, whole[-1][1] + part.text)
        else:
            whole.append((part.kind, part.text))
    return whole


def split_whole(text: str, is_inside: bool) -> list[tuple[str, str]]:
    """The same without a stream, by regular expressions."""
    parts: list[tuple[str, str]] = []
    while text:
        pattern = r"(.*?)(</think>|\Z)" if is_inside else r"(.*?)(<think>|\Z)"
        match = re.match(pattern, text, re.DOTALL)
        assert match is not None
        parts += [("thinking" if is_inside else "answer", match[1])] if match[1] else []
        parts += [("tag", match[2])] if match[2] else []
        is_inside ^= bool(match[2])
        text = text[match.end() :]
    return parts


def split(pieces: list[str], is_inside: bool) -> list[Part]:
    splitter = ThinkingSplitter(is_inside=is_inside)
    parts = list(itertools.chain.from_iterable(map(splitter.push, pieces)))
    parts += splitter.finish()
    assert not splitter.is_undecided and splitter.finish() == []
    return parts


def view(pieces: list[str], mode: ThinkingMode, is_inside: bool) -> str:
    shown = ThinkingView(mode, is_inside=is_inside)
    return "".join(map(shown.take_token, pieces)) + shown.finish()


def split_view(pieces: list[str], is_inside: bool) -> tuple[str, str]:
    """Answer and thinking, given out beside each other."""
    shown = ThinkingView("split", is_inside=is_inside)
    both = [(shown.take_token(piece), shown.take_thinking()) for piece in pieces]
    both.append((shown.finish(), shown.take_thinking()))
    return "".join(answer for answer, _ in both), "".join(thinking for _, thinking in both)


def cut(text: str, generator: random.Random) -> list[str]:
    count = generator.randint(0, len(text))
    ends = sorted(generator.choices(range(len(text) + 1), k=count))
    return [text[start:end] for start, end in itertools.pairwise([0, *ends, len(text)])]


@pytest.mark.parametrize("case", CASES)
def test_thinking_and_answer(case: str) -> None:
    text, is_inside, thinking, answer = CASES[case]
    for pieces in ([text], list(text)):
        assert view(pieces, "only", is_inside) == thinking
        assert view(pieces, "hide", is_inside) == answer
        assert view(pieces, "show", is_inside) == text
        assert split_view(pieces, is_inside) == (answer, thinking)


@pytest.mark.parametrize("is_inside", [False, True])
def test_random_cuts_equal_the_whole_text(is_inside: bool) -> None:
    generator = random.Random(is_inside)
    snippets = ["<think>", "</think>", "<think", "</", "<", ">", "think", "\n", " ", "a", "é", "🦙"]
    for _ in range(3000):
        text = "".join(generator.choices(snippets, k=generator.randint(0, 12)))
        pieces = cut(text, generator)
        parts = split(pieces, is_inside)
        assert joined(parts) == split_whole(text, is_inside), pieces
        assert all(part.text for part in parts)
        for mode in THINKING_MODES:
            assert view(pieces, mode, is_inside) == view([text], mode, is_inside), (pieces, mode)
        answer, thinking = view([text], "hide", is_inside), view([text], "only", is_inside)
        assert split_view(pieces, is_inside) == (answer, thinking), pieces


def test_text_is_held_back_no_longer_than_it_may_become_a_tag() -> None:
    splitter = ThinkingSplitter()
    pushed = {piece: joined(splitter.push(piece)) for piece in ("a<", "thin", "g", " <thi", "nk>b", "</")}
    assert pushed == {
        "a<": [("answer", "a")],
        "thin": [],
        "g": [("answer", "<thing")],
        " <thi": [("answer", " ")],
        "nk>b": [("tag", "<think>"), ("thinking", "b")],
        "</": [],
    }
    assert splitter.is_inside and splitter.is_undecided


# Tokens, whether they begin inside, and how many of them went into thinking.
COUNTS = {
    "no tags": (["a", "b"], False, 0),
    "tags of one token": (["a", "<think>", "x", "y", "</think>", "\n\n", "b"], False, 4),
    "tags of several": (["<", "think", ">", "x", "</", "think>", "b"], False, 6),
    "tags and text in one token": (["a<think>x", "y</think>b", "c"], False, 2),
    "a false start": (["a", "<", "b", "<th"], False, 0),
    "a false start inside": (["x", "</", "y"], True, 3),
    "opened by the prompt": (["x", "</think>", "b"], True, 2),
    "halves of a character": (["<think>", "", "🦙", "</think>", "", "é"], False, 4),
}


@pytest.mark.parametrize("case", COUNTS)
@pytest.mark.parametrize("mode", THINKING_MODES)
def test_tokens_are_counted_apart(case: str, mode: ThinkingMode) -> None:
    tokens, is_inside, thinking = COUNTS[case]
    shown = ThinkingView(mode, is_inside=is_inside)
    for token in tokens:
        shown.take_token(token)
    shown.finish()
    assert shown.thinking_tokens == thinking


def test_tokens_whose_text_comes_later_count_as_that_text() -> None:
    shown = ThinkingView()
    shown.take_token("", is_whole=False)
    shown.take_token("<think>x")
    shown.take_token("", is_whole=False)
    assert shown.finish("</think>") == "</think>" and shown.thinking_tokens == 3


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("<|Assistant|><think>\n", True),
        ("assistant\n<think>", True),
        ("What does <think> mean?<|Assistant|>", False),
        ("<think>\n\n</think>\n\n", False),  # thinking switched off, as Qwen3's template does it
        ("", False),
    ],
)
def test_prompts_that_open_the_thinking(prompt: str, expected: bool) -> None:
    assert opens_thinking(prompt) is expected


def test_an_unknown_mode() -> None:
    with pytest.raises(ConfigError, match=r"thinking has an unknown value(.|\n)*show, hide, only"):
        ThinkingView("loud")  # type: ignore[arg-type]  # as a request over the network may say it


WORDS = ("<think>", "</think>", "a", "b", "c", "<end>", "<pad>")


def continuation(**options: Any) -> Continuation:
    """With tags that are special tokens, as some models have them, and words with spaces between."""
    tokenizer = tokenizers.Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="a"))
    tokenizer.add_special_tokens(["<think>", "</think>", "<end>", "<pad>"])
    text = TextTokenizer(tokenizer, special_tokens={}, chat_template=None, eos_ids=frozenset({5}))
    return Continuation(text, sampling=SamplingConfig(), max_new_tokens=options.pop("limit", 20), **options)


def run(sequence: Continuation, words: str) -> tuple[str, int]:
    """Text given out, and the number of thinking tokens."""
    pieces = [
        sequence.take(np.eye(len(WORDS), dtype=np.float32)[WORDS.index(word)]) for word in words.split()
    ]
    return "".join(piece.text for piece in pieces) + sequence.held_back(), sequence.thinking_tokens


@pytest.mark.parametrize(
    ("mode", "text"), [("show", "<think> a b </think> c"), ("hide", "c"), ("only", "a b ")]
)
def test_special_tokens_are_tags_and_other_ones_stay_out(mode: ThinkingMode, text: str) -> None:
    assert run(continuation(thinking=mode), "<think> a <pad> b </think> c <end>") == (text, 5)


def test_a_continuation_that_begins_inside_and_ends_there() -> None:
    assert run(continuation(thinking="hide", begins_thinking=True), "a b <end>") == ("", 3)
    assert run(continuation(thinking="hide", begins_thinking=True), "a </think> b <end>") == ("b", 2)
    assert run(continuation(thinking="only", limit=2), "<think> a") == ("a", 2)


def test_stop_texts_end_thinking_too() -> None:
    assert run(continuation(thinking="hide", stop=("b",)), "<think> a b") == ("", 3)
    assert run(continuation(thinking="only", stop=("b",)), "<think> a b") == ("a ", 3)
    # Held back by the stop text at first; then the tag is one.
    assert run(continuation(thinking="hide", stop=("</think> a",)), "<think> a </think> b <end>")[0] == "b"
