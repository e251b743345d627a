from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpu_engines import cpu_engine
from serving_cases import Bench, FailingSession, explain_difference, run_alone
from tiny_checkpoints import write_deepseek

from r1trt.runtime.sampling import SamplingConfig
from r1trt.runtime.session import Session, SessionError
from r1trt.serving import metrics as m
from r1trt.serving.request import CancelledError, Client, GenerationRequest, QueueFullError, RequestError
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


def request(prompt: int = 5, new: int = 6, **options: Any) -> GenerationRequest:
    """A prompt of so many tokens; different lengths give different tokens throughout."""
    ids = tuple(int(token) for token in np.random.default_rng(prompt).integers(10, 300, prompt))
    return GenerationRequest(prompt_ids=ids, max_new_tokens=new, **options)


def assert_mixed_requests_answer_as_alone(session: Session, tokenizer: TextTokenizer) -> None:
    generator = np.random.default_rng(0)
    requests = [
        request(prompt=int(generator.integers(1, 40)), new=int(generator.integers(1, 20))) for _ in range(24)
    ]
    bench = Bench(session, tokenizer, chunk_tokens=8)
    for sent, answer in zip(requests, bench.run(*requests), strict=True):
        difference = explain_difference(tokenizer, answer.text, run_alone(session, tokenizer, sent, chunk=8))
        assert difference is None, f"{sent}: {difference}"
        assert answer.finish_reason in ("length", "eos")
    assert max(len(call.seq_len) for call in bench.session.calls) == ROWS
    assert bench.metrics.counts[m.FINISHED.name] == len(requests)
    assert bench.metrics.gauges[m.CACHE_USE.name] == 0


def test_mixed_requests_answer_as_alone(session: Session, tokenizer: TextTokenizer) -> None:
    assert_mixed_requests_answer_as_alone(session, tokenizer)


def test_latent_caches_have_rows_too(tmp_path: Path) -> None:
    checkpoint = write_deepseek(tmp_path / "checkpoint", tokenizer=True)
    engine = cpu_engine(checkpoint, tmp_path, max_seq_len=CAPACITY, rows=ROWS)
    session = serving_session(engine, ROWS, threads=1)
    assert_mixed_requests_answer_as_alone(session, tokenizer_from_dir(engine))
    session.close()


def test_requests_share_the_calls_that_give_them_tokens(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer)
    answers = bench.run(*(request(prompt=5 + index, new=20) for index in range(ROWS)))
    assert sum(answer.new_tokens for answer in answers) == 20 * ROWS
    # One request alone needs 20 calls; each other adds the one that reads its prompt, and joins a call later.
    assert len(bench.session.calls) <= 20 + 2 * (ROWS - 1)


def test_requests_join_and_leave_between_steps(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer)
    (long,) = bench.submit(request(prompt=5, new=30))
    for _ in range(5):
        bench.scheduler.step()
    (short,) = bench.submit(request(prompt=7, new=3))
    while not short.is_final:
        bench.scheduler.step()
    assert not long.is_final
    while bench.scheduler.step():
        pass
    assert long.new_tokens == 30 and short.new_tokens == 3


def test_a_long_prompt_delays_the_others_by_one_piece_at_a_time(
    session: Session, tokenizer: TextTokenizer
) -> None:
    bench = Bench(session, tokenizer, chunk_tokens=8)
    bench.submit(request(prompt=4, new=20))
    bench.scheduler.step()
    bench.run(request(prompt=40, new=2))
    pieces = [index for index, call in enumerate(bench.session.calls) if call.is_prefill]
    assert len(pieces) == 1 + 5
    assert all(later - earlier == 2 for earlier, later in itertools.pairwise(pieces[1:]))


def test_a_long_prompt_takes_turns_with_a_short_one_that_comes_later(
    session: Session, tokenizer: TextTokenizer
) -> None:
    bench = Bench(session, tokenizer, chunk_tokens=8)
    (long,) = bench.submit(request(prompt=56, new=4))
    bench.scheduler.step()
    (short,) = bench.submit(request(prompt=5, new=4))
    while not short.new_tokens:
        bench.scheduler.step()
    assert len(bench.session.calls) <= 3 and not long.new_tokens
    while bench.scheduler.step():
        pass
    for sent, answer in ((request(56, 4), long), (request(5, 4), short)):
        assert (
            explain_difference(tokenizer, answer.text, run_alone(session, tokenizer, sent, chunk=8)) is None
        )


def test_short_prompts_that_keep_coming_do_not_starve_a_long_one(
    session: Session, tokenizer: TextTokenizer
) -> None:
    bench = Bench(session, tokenizer, chunk_tokens=8)
    (long,) = bench.submit(request(prompt=56, new=1))
    for _ in range(7 * ROWS):
        bench.submit(request(prompt=5, new=1))
        bench.scheduler.step()
    assert long.finish_reason == "length"


def test_short_prompts_in_neighbouring_rows_share_a_call(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer, chunk_tokens=32)
    bench.run(*(request(prompt=length, new=2) for length in (8, 7, 6, 3)))
    assert bench.session.calls[0].seq_len == (8, 7, 6)


def test_no_call_computes_rows_outside_those_in_use(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer)
    (first, *_, last) = bench.run(*(request(prompt=5, new=new) for new in (8, 2, 9, 25)))
    assert bench.session.swaps, "a row should have taken the place of one that was freed before it"
    assert all(0 not in call.seq_len for call in bench.session.calls if not call.is_prefill)
    assert len(bench.session.calls[-1].seq_len) == 1
    assert explain_difference(tokenizer, last.text, run_alone(session, tokenizer, request(5, 25))) is None
    assert first.new_tokens == 8


def test_a_row_may_fill_the_cache_to_its_last_token(session: Session, tokenizer: TextTokenizer) -> None:
    full = request(prompt=CAPACITY - 4, new=5)
    bench = Bench(session, tokenizer, chunk_tokens=16)
    answers = bench.run(full, request(prompt=3, new=8), request(prompt=CAPACITY, new=1))
    assert [answer.error for answer in answers] == [None, None, None]
    assert (
        explain_difference(tokenizer, answers[0].text, run_alone(session, tokenizer, full, chunk=16)) is None
    )


@pytest.mark.parametrize(("prompt", "new"), [(CAPACITY, 2), (CAPACITY + 1, 1), (1, CAPACITY + 1)], ids=str)
def test_a_request_that_can_never_fit_is_refused(
    session: Session, tokenizer: TextTokenizer, prompt: int, new: int
) -> None:
    bench = Bench(session, tokenizer)
    with pytest.raises(RequestError, match="too long") as error:
        bench.submit(request(prompt, new))
    assert error.value.details["found"] == f"{prompt} prompt tokens + {new} max_tokens"
    assert bench.scheduler.step() is False


def test_admission_is_bounded_by_the_token_budget_and_first_come_first_served(
    session: Session, tokenizer: TextTokenizer
) -> None:
    bench = Bench(session, tokenizer, token_budget=40)
    big, big_too, small = bench.submit(request(20, 11), request(20, 11), request(2, 2))
    while not big.is_final:
        bench.scheduler.step()
        # The small one would fit, but came later than one that does not.
        assert not big_too.pieces and not small.pieces
    while bench.scheduler.step():
        pass
    assert big_too.is_final and small.is_final
    with pytest.raises(RequestError, match="too long"):
        bench.submit(request(30, 12))


def test_the_queue_has_a_limit(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer, max_queue=3)
    bench.submit(*(request() for _ in range(3)))
    with pytest.raises(QueueFullError, match="queue is full"):
        bench.submit(request())
    bench.scheduler.step()
    bench.submit(request())


def test_cancellation_frees_the_row_and_the_place_in_the_queue(
    session: Session, tokenizer: TextTokenizer
) -> None:
    bench = Bench(session, tokenizer)
    running = bench.submit(*(request(prompt=5, new=40) for _ in range(ROWS)))
    waiting = bench.submit(request(prompt=6, new=2), request(prompt=7, new=2))
    for _ in range(12):
        bench.scheduler.step()
    running[1].cancelled = waiting[0].cancelled = True
    bench.scheduler.step()
    assert running[1].error is not None and waiting[0].error is not None
    while not waiting[1].is_final:
        bench.scheduler.step()
    assert waiting[1].finish_reason == "length" and not running[0].is_final
    assert bench.metrics.counts[m.CANCELLED.name] == 2


def test_a_client_that_cannot_be_reached_ends_only_its_own_request(
    session: Session, tokenizer: TextTokenizer
) -> None:
    bench = Bench(session, tokenizer)

    def unreachable(event: object) -> None:
        raise ConnectionResetError

    bench.scheduler.submit(request(prompt=5, new=40), Client(send=unreachable))
    (other,) = bench.run(request(prompt=6, new=5))
    assert other.new_tokens == 5
    assert len(bench.session.calls) < 12


def test_a_seed_gives_the_same_text_whatever_else_runs(session: Session, tokenizer: TextTokenizer) -> None:
    def sampled(seed: int) -> GenerationRequest:
        return request(prompt=9, new=20, sampling=SamplingConfig(temperature=0.9, top_p=0.95, seed=seed))

    (alone,) = Bench(session, tokenizer).run(sampled(7))
    together = Bench(session, tokenizer).run(sampled(1), request(30, 4), sampled(7), sampled(2), sampled(7))
    assert together[2].text == together[4].text == alone.text
    assert len({answer.text for answer in together}) > 2


def test_a_stop_text_may_lie_across_tokens(session: Session, tokenizer: TextTokenizer) -> None:
    (free,) = Bench(session, tokenizer).run(request(prompt=9, new=20))
    # The end of one piece and the start of the next.
    index = next(i for i in range(4, len(free.pieces) - 1) if free.pieces[i] and free.pieces[i + 1])
    stop = free.pieces[index][-1] + free.pieces[index + 1][0]
    (stopped,) = Bench(session, tokenizer).run(request(prompt=9, new=20, stop=(stop,)))
    assert stopped.finish_reason == "stop"
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stop not in stopped.text


def test_a_failed_call_ends_its_requests_and_no_later_ones(
    session: Session, tokenizer: TextTokenizer
) -> None:
    bench = Bench(FailingSession(session, fails={0}), tokenizer)
    first, second = bench.run(request(prompt=20, new=4), request(prompt=5, new=4))
    assert isinstance(first.error, SessionError)
    assert second.finish_reason == "length"
    assert bench.metrics.counts[m.FAILED.name] == 1


def test_logits_that_are_no_numbers_end_one_request_and_clear_its_row(
    session: Session, tokenizer: TextTokenizer
) -> None:
    failing = FailingSession(session, nan={3: 1})
    first, second = Bench(failing, tokenizer).run(request(prompt=20, new=9), request(prompt=5, new=9))
    assert first.finish_reason == "length"
    assert second.error is not None and "not finite numbers" in second.error.message
    assert failing.cleared == [1]


def test_closing_ends_everything_with_an_error(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer)
    answers = bench.submit(*(request(prompt=5, new=40) for _ in range(ROWS + 2)))
    bench.scheduler.step()
    stopping = CancelledError("The server is stopping.")
    bench.scheduler.close(stopping)
    assert all(answer.error is stopping for answer in answers)
    assert bench.scheduler.step() is False


def test_measurements(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer)
    bench.run(request(prompt=5, new=6), request(prompt=7, new=6))
    assert bench.metrics.counts[m.PROMPT_TOKENS.name] == 12
    assert bench.metrics.counts[m.NEW_TOKENS.name] == 12
    assert len(bench.metrics.observations[m.QUEUE_SECONDS.name]) == 2
    assert len(bench.metrics.observations[m.TOKEN_SECONDS.name]) == 2
    first = bench.metrics.observations[m.FIRST_TOKEN_SECONDS.name]
    assert len(first) == 2 and all(0 < seconds < 60 for seconds in first)
