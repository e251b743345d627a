from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_cases import Answer, FailingSession

from r1trt.runtime.session import Session
from r1trt.serving.config import SchedulerConfig
from r1trt.serving.metrics import RecordedMetrics
from r1trt.serving.request import CancelledError, Client, GenerationRequest, RequestEvent
from r1trt.serving.scheduler import Scheduler
from r1trt.serving.scheduler_thread import SchedulerError, SchedulerThread
from r1trt.serving.session import serving_session
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir

PATIENCE_S = 300


@pytest.fixture(scope="module")
def tokenizer(tiny_engine: Path) -> TextTokenizer:
    return tokenizer_from_dir(tiny_engine)


@pytest.fixture
def session(tiny_engine: Path) -> Iterator[Session]:
    session = serving_session(tiny_engine, 4, threads=1)
    yield session
    session.close()


class Waiting(Answer):
    """An answer that a thread can wait for."""

    def __init__(self) -> None:
        super().__init__()
        self._done = threading.Event()

    def take(self, event: RequestEvent) -> None:
        super().take(event)
        if self.is_final:
            self._done.set()

    def wait(self) -> None:
        assert self._done.wait(PATIENCE_S), "no last message"


def thread_of(session: Session, tokenizer: TextTokenizer) -> SchedulerThread:
    return SchedulerThread(Scheduler(session, tokenizer, SchedulerConfig(chunk_tokens=64), RecordedMetrics()))


def request(new: int = 5) -> GenerationRequest:
    return GenerationRequest(prompt_ids=(11, 12, 13), max_new_tokens=new)


def test_requests_from_many_threads_are_answered(session: Session, tokenizer: TextTokenizer) -> None:
    loop = thread_of(session, tokenizer)
    answers = [Waiting() for _ in range(40)]
    threads = [
        threading.Thread(target=lambda part=part: [loop.submit(request(), a.client) for a in part])
        for part in (answers[start::4] for start in range(4))
    ]
    for thread in threads:
        thread.start()
    for answer in answers:
        answer.wait()
        assert answer.finish_reason is not None
    assert len({answer.text for answer in answers}) == 1
    for thread in threads:
        thread.join()
    loop.close()


def test_closing_ends_what_runs_and_refuses_what_comes(session: Session, tokenizer: TextTokenizer) -> None:
    loop = thread_of(session, tokenizer)
    answers = [Waiting() for _ in range(30)]
    for answer in answers:
        loop.submit(request(60), answer.client)
    loop.close()
    for answer in answers:
        answer.wait()
    assert any(isinstance(answer.error, CancelledError) for answer in answers)
    with pytest.raises(CancelledError, match="stopping"):
        loop.submit(request(), Client(send=lambda event: None))


def test_a_defect_ends_every_request_with_an_error(
    session: Session, tokenizer: TextTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = FailingSession(session, fails={3}, error=ZeroDivisionError("a defect"))
    scheduler = Scheduler(failing, tokenizer, SchedulerConfig(chunk_tokens=64), RecordedMetrics())
    answers = [Waiting() for _ in range(6)]
    for answer in answers:
        scheduler.submit(request(60), answer.client)
    loop = SchedulerThread(scheduler)
    for answer in answers:
        answer.wait()
        assert isinstance(answer.error, SchedulerError)
    with pytest.raises(SchedulerError, match="a defect"):
        loop.submit(request(), Client(send=lambda event: None))
    loop.close()
    assert "ZeroDivisionError" in capsys.readouterr().err
