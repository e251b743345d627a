"""Drafts in the scheduler: of a request that decodes alone, with the text that it would have without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cpu_engines import cpu_engine
from serving_cases import Bench, explain_difference, run_alone
from tiny_checkpoints import write_llama

from r1trt.errors import ConfigError
from r1trt.runtime.sampling import SamplingConfig
from r1trt.runtime.session import Session
from r1trt.serving import metrics as m
from r1trt.serving.request import GenerationRequest
from r1trt.serving.session import serving_session
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir

ROWS, CAPACITY, MOST = 3, 128, 6
REPEATED = (11, 12, 13, 14) * 3
SAMPLINGS = (SamplingConfig(), SamplingConfig(temperature=0.7, top_k=2, seed=3))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("all-logits")
    checkpoint = write_llama(
        directory / "checkpoint", tokenizer=True, seed=4, max_position_embeddings=CAPACITY
    )
    return cpu_engine(checkpoint, directory, max_seq_len=CAPACITY, rows=ROWS, last_token_logits=False)


@pytest.fixture
def session(engine: Path) -> Iterator[Session]:
    session = serving_session(engine, ROWS, threads=1)
    yield session
    session.close()


@pytest.fixture(scope="module")
def tokenizer(engine: Path) -> TextTokenizer:
    return tokenizer_from_dir(engine)


def request(sampling: SamplingConfig, new: int = CAPACITY - len(REPEATED)) -> GenerationRequest:
    return GenerationRequest(prompt_ids=REPEATED, max_new_tokens=new, sampling=sampling)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_one_request_answers_as_without(
    session: Session, tokenizer: TextTokenizer, sampling: SamplingConfig
) -> None:
    bench = Bench(session, tokenizer, prompt_lookup=MOST)
    (answer,) = bench.run(request(sampling))
    difference = explain_difference(tokenizer, answer.text, run_alone(session, tokenizer, request(sampling)))
    assert difference is None, difference
    counts = bench.metrics.counts
    drafted, accepted = counts[m.DRAFTED_TOKENS.name], counts[m.ACCEPTED_TOKENS.name]
    assert drafted >= accepted and drafted
    # Every call brings one token, and those of its draft that were chosen; the last may be one of these.
    brought = counts[m.DECODE_STEPS.name] + accepted + 1
    assert brought - 1 <= counts[m.NEW_TOKENS.name] <= brought


def test_beside_others_nothing_is_drafted(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer, prompt_lookup=MOST)
    sent = [request(SAMPLINGS[0], new=10 + number) for number in range(2)]
    for asked, answer in zip(sent, bench.run(*sent), strict=True):
        difference = explain_difference(tokenizer, answer.text, run_alone(session, tokenizer, asked))
        assert difference is None, difference
    shared = [call for call in bench.session.calls if len(call.seq_len) > 1]
    assert shared and all(max(call.seq_len) == 1 or call.is_prefill for call in shared)


def test_nothing_is_drafted_unless_asked_for(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer)
    bench.run(request(SAMPLINGS[0]))
    assert not bench.metrics.counts[m.DRAFTED_TOKENS.name]


def test_an_engine_of_last_logits_alone_is_refused(tiny_engine: Path, tokenizer: TextTokenizer) -> None:
    session = serving_session(tiny_engine, 1, threads=1)
    with pytest.raises(ConfigError, match="of a call's last token only"):
        Bench(session, tokenizer, prompt_lookup=MOST)
    session.close()
