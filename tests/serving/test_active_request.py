"""One request that is served: what its client gets for each token."""

from __future__ import annotations

import numpy as np
import pytest
import tokenizers
from tokenizers.models import WordLevel

from r1trt.serving.active_request import ActiveRequest
from r1trt.serving.request import Client, GenerationRequest, RequestEvent
from r1trt.tokenizer.text_tokenizer import TextTokenizer
from r1trt.tokenizer.thinking import ThinkingMode

WORDS = ("question", "<think>", "</think>", "hm", "four", "<end>")


def tokenizer() -> TextTokenizer:
    model = WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="question")
    return TextTokenizer(
        tokenizers.Tokenizer(model), special_tokens={}, chat_template=None, eos_ids=frozenset({5})
    )


def taken(active: ActiveRequest, token: int) -> RequestEvent:
    event = active.take(np.eye(len(WORDS), dtype=np.float32)[token])
    assert event is not None
    return event


@pytest.mark.parametrize(
    ("mode", "expected"), [("show", "hm </think> four"), ("hide", "four"), ("only", "hm ")]
)
def test_thinking_that_the_prompt_opens(mode: ThinkingMode, expected: str) -> None:
    request = GenerationRequest(prompt_ids=(0, 1), max_new_tokens=9, thinking=mode)
    active = ActiveRequest(request, Client(send=lambda event: None), tokenizer())
    events = [taken(active, token) for token in (3, 2, 4, 5)]
    assert "".join(event.text for event in events) == expected
    assert [event.new_tokens for event in events] == [1] * 4 and events[-1].finish_reason == "eos"


def test_thinking_beside_the_answer_is_counted_as_it_comes() -> None:
    request = GenerationRequest(prompt_ids=(0, 1), max_new_tokens=9, thinking="split")
    active = ActiveRequest(request, Client(send=lambda event: None), tokenizer())
    events = [taken(active, token) for token in (3, 3, 2, 4, 5)]
    assert ["".join(event.text for event in events), "".join(event.thinking for event in events)] == [
        "four",
        "hm hm ",
    ]
    assert sum(event.thinking_tokens for event in events) == 3
    assert all(event.thinking_tokens <= 3 for event in events)
