"""Texts of a model in three parts on three nodes of this machine, a stage's death included."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_requests import PROMPTS, Answer, answers, requests

from r1trt.cluster.config import ClusterConfig
from r1trt.cluster.lanes import Lanes
from r1trt.cluster.open import opened_stages
from r1trt.cluster.stages import Stages
from r1trt.serving.config import SchedulerConfig
from r1trt.serving.metrics import RecordedMetrics
from r1trt.serving.scheduler import Scheduler
from r1trt.serving.scheduler_thread import SchedulerThread
from r1trt.serving.session import serving_session
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir

ROWS, NEW_TOKENS, PATIENCE = len(PROMPTS), 60, 120.0
SCHEDULER = SchedulerConfig(chunk_tokens=16)


@pytest.fixture(scope="module")
def tokenizer(parts: Path) -> TextTokenizer:
    return tokenizer_from_dir(parts)


@pytest.fixture(scope="module")
def expected(whole: Path, tokenizer: TextTokenizer) -> list[str]:
    """The texts of one process that holds the whole engine."""
    session = serving_session(whole, ROWS, threads=1)
    thread = SchedulerThread(Scheduler(session, tokenizer, SCHEDULER, RecordedMetrics()))
    found, _ = answers(thread.submit, requests(tokenizer, NEW_TOKENS), patience=PATIENCE)
    thread.close()
    assert len({answer.text for answer in found}) == ROWS
    return [answer.text for answer in found]


@pytest.fixture(scope="module")
def stages(address: str, parts: Path) -> Iterator[Stages]:
    config = ClusterConfig(directory=parts, rows=ROWS, threads=1, call_seconds=20.0)
    with opened_stages(address, config, print) as found:
        yield found


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("killed", [None, 0, 2])
def test_texts_are_those_of_one_process(
    stages: Stages, tokenizer: TextTokenizer, expected: list[str], lanes: int, killed: int | None
) -> None:
    before = len(stages.recoveries)

    def meanwhile(found: list[Answer]) -> None:
        while min(answer.tokens for answer in found) < NEW_TOKENS // 3:
            time.sleep(0.001)
        if killed is not None:
            os.kill(stages.processes[killed][1], signal.SIGKILL)

    front = Lanes(stages, tokenizer, lanes, SCHEDULER, RecordedMetrics())
    wanted = requests(tokenizer, NEW_TOKENS)
    found, _ = answers(front.submit, wanted, patience=PATIENCE, meanwhile=meanwhile)
    front.close()
    assert [answer.error for answer in found] == [None] * ROWS
    assert [answer.text for answer in found] == expected
    assert {one.stages for one in stages.recoveries[before:]} == (
        {(killed,)} if killed is not None else set()
    )


def test_every_row_is_used(stages: Stages, tokenizer: TextTokenizer, expected: list[str]) -> None:
    front = Lanes(stages, tokenizer, 3, SCHEDULER, RecordedMetrics())  # 2, 3 and 3 rows
    found, _ = answers(front.submit, requests(tokenizer, NEW_TOKENS), patience=PATIENCE)
    front.close()
    assert [answer.text for answer in found] == expected
    began, ended = [answer.times[0] for answer in found], [answer.times[-1] for answer in found]
    assert max(began) < min(ended)  # none waited for another's end


@pytest.mark.slow
def test_a_stage_that_does_not_answer(stages: Stages, tokenizer: TextTokenizer, expected: list[str]) -> None:
    def meanwhile(found: list[Answer]) -> None:
        while min(answer.tokens for answer in found) < NEW_TOKENS // 3:
            time.sleep(0.001)
        os.kill(stages.processes[1][1], signal.SIGSTOP)

    front = Lanes(stages, tokenizer, 3, SCHEDULER, RecordedMetrics())
    wanted = requests(tokenizer, NEW_TOKENS)
    found, _ = answers(front.submit, wanted, patience=PATIENCE, meanwhile=meanwhile)
    front.close()
    assert [answer.text for answer in found] == expected


def test_a_stage_that_does_not_come_back(
    stages: Stages, parts: Path, tokenizer: TextTokenizer, expected: list[str]
) -> None:
    def meanwhile(found: list[Answer]) -> None:
        while min(answer.tokens for answer in found) < NEW_TOKENS // 3:
            time.sleep(0.001)
        (parts / "part-01").rename(parts / "elsewhere")
        os.kill(stages.processes[1][1], signal.SIGKILL)

    front = Lanes(stages, tokenizer, 3, SCHEDULER, RecordedMetrics())
    wanted = requests(tokenizer, NEW_TOKENS)
    found, _ = answers(front.submit, wanted, patience=PATIENCE, meanwhile=meanwhile)
    assert all("Part 1 of 3 is missing" in str(answer.error) for answer in found)
    (parts / "elsewhere").rename(parts / "part-01")
    found, _ = answers(front.submit, wanted, patience=PATIENCE)
    front.close()
    assert [answer.text for answer in found] == expected
