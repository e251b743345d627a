"""Sizes of the calls that read prompts, for machines whose times are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from serving_cases import Bench

from r1trt.runtime.session import Session
from r1trt.serving.call_sizes import CallSizes, call_sizes, measured_call_sizes
from r1trt.serving.config import SchedulerConfig
from r1trt.serving.metrics import RecordedMetrics
from r1trt.serving.request import GenerationRequest
from r1trt.serving.scheduler import Scheduler
from r1trt.serving.session import serving_session
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir

ROWS, CAPACITY = 4, 64


@pytest.fixture(scope="module")
def tokenizer(tiny_engine: Path) -> TextTokenizer:
    return tokenizer_from_dir(tiny_engine)


@pytest.fixture
def session(tiny_engine: Path) -> Iterator[Session]:
    session = serving_session(tiny_engine, ROWS, threads=1)
    yield session
    session.close()


def machine(call_ms: float, token_ms: float) -> Callable[[int, int], float]:
    """Times of a machine where a call takes so long whatever is in it, and each token as long again."""
    return lambda rows, tokens: (call_ms + token_ms * rows * tokens) / 1000


@pytest.mark.parametrize(
    ("times", "rows", "most", "expected"),
    [
        # 128 tokens take 0.86 times as long each as 64, which take 0.79 times as long as 32.
        (machine(24, 1), 32, 4096, CallSizes(piece=64, call=162)),
        # Each token takes the same whatever the size: small calls hold up nobody.
        (machine(0, 1), 32, 4096, CallSizes(piece=16, call=128)),
        # A token of a full house takes far longer than a prompt's.
        (machine(1000, 0.1), 32, 4096, CallSizes(piece=128, call=507)),
        (machine(1000, 0.1), 256, 4096, CallSizes(piece=128, call=512)),
        (machine(24, 1), 1, 4096, CallSizes(piece=64, call=72)),
        (machine(24, 1), 32, 40, CallSizes(piece=32, call=128)),
        (machine(24, 1), 32, 8, CallSizes(piece=8, call=56)),
    ],
)
def test_sizes_follow_times(
    times: Callable[[int, int], float], rows: int, most: int, expected: CallSizes
) -> None:
    assert call_sizes(times, rows, most) == expected


def test_a_session_is_measured_and_left_empty(session: Session) -> None:
    sizes = measured_call_sizes(session)
    assert sizes.piece in (16, 32, 64) and sizes.piece <= sizes.call <= 512
    tokens, one = np.array([[7]]), np.ones(1, np.int64)
    logits = session.step(tokens, one, 0 * one).copy()
    session.reset(ROWS)
    np.testing.assert_array_equal(session.step(tokens, one, 0 * one), logits)


def test_a_size_that_is_given_stays(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer, chunk_tokens=12)
    ids = tuple(np.random.default_rng(0).integers(10, 300, 40).tolist())
    bench.run(*(GenerationRequest(prompt_ids=ids[start:], max_new_tokens=2) for start in (0, 28, 29, 35)))
    assert max(len(call.seq_len) * call.tokens for call in bench.session.calls if call.is_prefill) == 12


def test_a_measured_scheduler_answers(session: Session, tokenizer: TextTokenizer) -> None:
    scheduler = Scheduler(session, tokenizer, SchedulerConfig(), RecordedMetrics())
    assert scheduler.step() is False


def test_pieces_of_long_prompts_share_calls_and_are_cut_as_alone(
    session: Session, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = CallSizes(piece=16, call=48)
    monkeypatch.setattr("r1trt.serving.scheduler._call_sizes", lambda *_: sizes)
    bench = Bench(session, tokenizer)
    lengths = (40, 33, 38, 6)
    requests = [
        GenerationRequest(
            prompt_ids=tuple(np.random.default_rng(length).integers(10, 300, length).tolist()),
            max_new_tokens=3,
            logprobs=0,
        )
        for length in lengths
    ]
    answers = bench.run(*requests)
    reads = [call.seq_len for call in bench.session.calls if call.is_prefill]
    assert reads[0] == (16, 16, 16) and (16, 15, 16) in reads
    for request, answer in zip(requests, answers, strict=True):
        (alone,) = Bench(session, tokenizer, chunk_tokens=64, prefix_reuse=False).run(request)
        assert (answer.text, answer.logprobs) == (alone.text, alone.logprobs)
