"""Requests for the benchmark of a cluster, and whoever answers them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from r1trt.serving.request import Client, GenerationRequest, RequestEvent
from r1trt.tokenizer.text_tokenizer import TextTokenizer

PROMPTS = (
    "The capital of France is",
    "Once upon a time there was a small house at the edge of a forest, and in it lived",
    "Water boils at",
    "A list of the planets, beginning with the one that is closest to the sun:",
    "def fibonacci(n):",
    "The difference between a virus and a bacterium is that",
    "My grandmother's recipe for apple pie begins with",
    "In 1969",
)
Submit = Callable[[GenerationRequest, Client], None]


@dataclass
class Answer:
    """One request's text, as it comes.

    Attributes:
        text: All of it so far.
        tokens: How many.
        error: Why it ended without a result.
        ended: Set at its end.
        times: When each message came.
    """

    text: str = ""
    tokens: int = 0
    error: str | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    times: list[float] = field(default_factory=list)

    def send(self, event: RequestEvent) -> None:
        """Takes a message."""
        self.times.append(time.perf_counter())
        self.text += event.text
        self.tokens += event.new_tokens
        if event.error is not None:
            self.error = str(event.error)
        if event.is_final:
            self.ended.set()


def requests(tokenizer: TextTokenizer, new_tokens: int) -> list[GenerationRequest]:
    """All prompts, answered by the most likely tokens."""
    return [
        GenerationRequest(
            prompt_ids=tuple(tokenizer.encode(prompt)), max_new_tokens=new_tokens, ignores_eos=True
        )
        for prompt in PROMPTS
    ]


def answers(
    submit: Submit,
    wanted: Sequence[GenerationRequest],
    *,
    patience: float,
    meanwhile: Callable[[list[Answer]], None] = lambda _: None,
) -> tuple[list[Answer], float]:
    """Enters all requests at the same time, and waits for their ends; the answers, and the seconds."""
    found = [Answer() for _ in wanted]
    started = time.perf_counter()
    for request, answer in zip(wanted, found, strict=True):
        submit(request, Client(send=answer.send))
    meanwhile(found)
    for answer in found:
        if not answer.ended.wait(max(0.0, started + patience - time.perf_counter())):
            answer.error = f"no end within {patience} s"
    return found, time.perf_counter() - started
