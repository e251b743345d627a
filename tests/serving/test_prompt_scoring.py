"""How likely a prompt's tokens are, by engines that give logits of every token, or of the last one only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cpu_engines import cpu_engine
from serving_cases import Bench, FailingSession
from tiny_checkpoints import write_llama

from r1trt.runtime.logprobs import log_softmax
from r1trt.runtime.session import Session
from r1trt.serving import metrics as m
from r1trt.serving.request import GenerationRequest, RequestError
from r1trt.serving.session import serving_session
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir

ROWS, CAPACITY, TOP = 4, 64, 3


@pytest.fixture(scope="module", params=["last token", "all tokens"])
def engine(
    request: pytest.FixtureRequest, tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if request.param == "last token":
        return tiny_engine
    directory = tmp_path_factory.mktemp("all")
    checkpoint = write_llama(directory / "checkpoint", tokenizer=True, seed=4)
    return cpu_engine(checkpoint, directory, max_seq_len=CAPACITY, rows=ROWS, last_token_logits=False)


@pytest.fixture
def session(engine: Path) -> Iterator[Session]:
    session = serving_session(engine, ROWS, threads=1)
    yield session
    session.close()


@pytest.fixture(scope="module")
def tokenizer(tiny_engine: Path) -> TextTokenizer:
    return tokenizer_from_dir(tiny_engine)


def scored(prompt: int, new: int = 1, echo: str | None = "the prompt") -> GenerationRequest:
    ids = np.random.default_rng(prompt).integers(10, 300, prompt).tolist()
    return GenerationRequest(prompt_ids=tuple(ids), max_new_tokens=new, logprobs=TOP, echo=echo)


def logprobs_alone(session: Session, ids: list[int]) -> list[float]:
    """By the definition: each token from the logits behind those before it, one call a token."""
    session.reset(ROWS)
    found = []
    for past, token in enumerate(ids[:-1]):
        logits_BSV = session.step(np.array([[token]]), np.array([1]), np.array([past]))
        found.append(float(log_softmax(logits_BSV[0, -1])[ids[past + 1]]))
    return found


def test_every_token_is_scored_beside_other_requests(session: Session, tokenizer: TextTokenizer) -> None:
    requests = [scored(prompt, new) for prompt, new in ((1, 3), (40, 1), (17, 6), (9, 1), (30, 2), (8, 12))]
    plain = [GenerationRequest(prompt_ids=(7, 8, 9), max_new_tokens=20) for _ in range(3)]
    bench = Bench(session, tokenizer, chunk_tokens=8)
    answers = bench.run(*requests, *plain)
    prompt_tokens = sum(len(request.prompt_ids) for request in (*requests, *plain))
    counts = bench.metrics.counts
    assert counts[m.PROMPT_TOKENS.name] + counts[m.REUSED_TOKENS.name] == prompt_tokens
    for request, answer in zip(requests, answers, strict=False):
        prompt = len(request.prompt_ids)
        assert answer.text.startswith("the prompt") and answer.finish_reason in ("length", "eos")
        assert len(answer.logprobs) == prompt + answer.new_tokens
        assert answer.logprobs[0].logprob is None and not answer.logprobs[0].top
        ids = [entry.token for entry in answer.logprobs]
        assert tuple(ids[:prompt]) == request.prompt_ids
        expected = logprobs_alone(session, ids)
        found = [entry.logprob for entry in answer.logprobs[1:]]
        assert found == pytest.approx(expected, abs=1e-4), request
        assert all(len(entry.top) == TOP for entry in answer.logprobs[1:])
        assert all(entry.top[0][1] == entry.logprob for entry in answer.logprobs[prompt:]), "greedy"


def test_only_what_is_asked_for_is_scored(session: Session, tokenizer: TextTokenizer) -> None:
    (answer,) = Bench(session, tokenizer).run(scored(9, 4, echo=None))
    assert len(answer.logprobs) == answer.new_tokens
    (answer,) = Bench(session, tokenizer).run(
        GenerationRequest(prompt_ids=(7, 8, 9), max_new_tokens=2, echo="as it was ")
    )
    assert answer.text.startswith("as it was ") and not answer.logprobs


def test_a_prompt_may_be_scored_without_an_answer(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer, chunk_tokens=8)
    alone, other = bench.run(scored(CAPACITY, new=0), scored(20, new=1))
    assert (alone.text, alone.new_tokens, alone.finish_reason) == ("the prompt", 0, "length")
    assert len(alone.logprobs) == CAPACITY and other.new_tokens == 1
    assert bench.metrics.counts[m.FINISHED.name] == 2 and bench.metrics.counts[m.NEW_TOKENS.name] == 1
    with pytest.raises(RequestError, match="max_tokens is too small"):
        scored(3, new=0, echo=None)


def test_logits_that_are_no_numbers_end_the_request_alone(session: Session, tokenizer: TextTokenizer) -> None:
    failing = FailingSession(session, nan={0: 0})
    bench = Bench(failing, tokenizer, chunk_tokens=8)
    bad, good = bench.run(scored(20), scored(12))
    assert bad.error is not None and "not finite" in bad.error.message and failing.cleared == [0]
    assert good.error is None and len(good.logprobs) == 13
    assert all(entry.logprob is not None and math.isfinite(entry.logprob) for entry in good.logprobs[1:])
