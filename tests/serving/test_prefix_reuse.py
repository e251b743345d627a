"""What stands in the cache is not read again, and nobody can tell from the numbers.

The reference is the same scheduler without reuse. On a CPU a prompt's numbers do not depend on where it is
cut, as long as no call has one token of it, so log-probabilities are compared to their last bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpu_engines import cpu_engine
from serving_cases import Answer, Bench, FailingSession
from tiny_checkpoints import write_deepseek, write_llama

from r1trt.errors import ConfigError
from r1trt.runtime.sampling import SamplingConfig
from r1trt.runtime.session import Session
from r1trt.serving import metrics as m
from r1trt.serving.pinned import pinned_ids
from r1trt.serving.request import GenerationRequest
from r1trt.serving.session import serving_session
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir

ROWS, CAPACITY = 4, 64
LAST_BITS = {"fp32": 0.0, "int8": 0.0, "latent": 1e-5}
"""Of a log-probability. Attention to latent caches is made of products, whose sums depend on their shapes."""


@pytest.fixture(scope="module", params=list(LAST_BITS))
def engine(
    request: pytest.FixtureRequest, tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if request.param == "fp32":
        return tiny_engine
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "latent":
        checkpoint = write_deepseek(directory / "checkpoint", tokenizer=True)
        return cpu_engine(checkpoint, directory, max_seq_len=CAPACITY, rows=ROWS)
    checkpoint = write_llama(directory / "checkpoint", tokenizer=True, seed=4)
    return cpu_engine(checkpoint, directory, max_seq_len=CAPACITY, rows=ROWS, precision="int8")


@pytest.fixture
def any_session(engine: Path) -> Iterator[Session]:
    session = serving_session(engine, ROWS, threads=1)
    yield session
    session.close()


@pytest.fixture
def session(tiny_engine: Path) -> Iterator[Session]:
    session = serving_session(tiny_engine, ROWS, threads=1)
    yield session
    session.close()


@pytest.fixture(scope="module")
def tokenizer(tiny_engine: Path) -> TextTokenizer:
    return tokenizer_from_dir(tiny_engine)


def random_ids(count: int, seed: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(10, 300, count).tolist())


def asking(ids: Sequence[int], new: int = 4, **options: Any) -> GenerationRequest:
    return GenerationRequest(prompt_ids=tuple(ids), max_new_tokens=new, logprobs=0, **options)


def written(answer: Answer) -> list[int]:
    return [entry.token for entry in answer.logprobs]


def assert_same(answer: Answer, expected: Answer, case: object, tolerance: float = 0.0) -> None:
    assert answer.text == expected.text and answer.finish_reason == expected.finish_reason, case
    assert written(answer) == written(expected), case
    pairs = zip(answer.logprobs, expected.logprobs, strict=True)
    differences = [abs((ours.logprob or 0) - (theirs.logprob or 0)) for ours, theirs in pairs]
    assert max(differences, default=0) <= tolerance, (case, max(differences))


@dataclass
class Turn:
    """A request that runs, and the conversation that it belongs to."""

    conversation: int
    sent: GenerationRequest
    answer: Answer
    steps_left: int | None


class RandomConversations:
    """Conversations that go on at random, of which some turns are cancelled at random."""

    def __init__(self, seed: int, conversations: int) -> None:
        self._random = np.random.default_rng(seed)
        self._begins = random_ids(int(self._random.integers(0, 9)), seed)
        self._texts = [list(self._begins) for _ in range(conversations)]

    def turn(self, bench: Bench, conversation: int) -> Turn:
        text = self._texts[conversation]
        if len(text) > CAPACITY - 24:
            text[:] = self._begins
        text += self._random.integers(10, 300, int(self._random.integers(1, 14))).tolist()
        chance, seed = self._random.random(), int(self._random.integers(9))
        sampling = SamplingConfig(temperature=0.8, seed=seed) if chance < 0.5 else SamplingConfig()
        echo = "echo" if chance > 0.9 else None
        sent = asking(text, int(self._random.integers(1, 8)), sampling=sampling, echo=echo)
        (answer,) = bench.submit(sent)
        steps = int(self._random.integers(12)) if self._random.random() < 0.2 else None
        return Turn(conversation, sent, answer, steps)

    def end(self, turn: Turn) -> None:
        """Goes on with what was written, or with something else, as templates do that drop the thinking."""
        if turn.answer.error is None and self._random.random() < 0.8:
            self._texts[turn.conversation] += written(turn.answer)[-turn.answer.new_tokens :]


def run_randomly(bench: Bench, seed: int, turns: int, conversations: int = 6) -> list[Turn]:
    texts = RandomConversations(seed, conversations)
    idle, running, done = list(range(conversations)), list[Turn](), list[Turn]()
    order = np.random.default_rng(seed + 1)
    while len(done) < turns:
        if idle and order.random() < 0.4:
            running.append(texts.turn(bench, idle.pop(int(order.integers(len(idle))))))
        bench.scheduler.step()
        for turn in running:
            if turn.steps_left is not None:
                turn.steps_left -= 1
                turn.answer.cancelled = turn.steps_left < 0
        for turn in [turn for turn in running if turn.answer.is_final]:
            running.remove(turn)
            texts.end(turn)
            idle.append(turn.conversation)
            done.append(turn)
    return done


def test_random_conversations_read_the_same_with_and_without(
    any_session: Session, tokenizer: TextTokenizer, request: pytest.FixtureRequest
) -> None:
    tolerance = LAST_BITS[request.node.callspec.params["engine"]]
    with_reuse = Bench(any_session, tokenizer, chunk_tokens=8)
    turns = run_randomly(with_reuse, seed=5, turns=120)
    assert with_reuse.metrics.counts[m.REUSED_TOKENS.name] > 400
    assert with_reuse.session.moves and with_reuse.session.swaps
    assert sum(turn.answer.error is not None for turn in turns) > 3, "some were to be cancelled"
    without = Bench(any_session, tokenizer, chunk_tokens=8, prefix_reuse=False)
    for number, turn in enumerate(turns):
        if turn.answer.error is None:
            (expected,) = without.run(turn.sent)
            assert_same(turn.answer, expected, (number, turn.sent), tolerance)
    assert without.metrics.counts[m.REUSED_TOKENS.name] == 0


def test_a_second_turn_reads_what_is_new(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer)
    first = random_ids(20, 1)
    (answer,) = bench.run(asking(first, 5))
    second = asking([*first, *written(answer), *random_ids(6, 2)])
    calls = len(bench.session.calls)
    (answer,) = bench.run(second)
    # The answer's keys are those of calls of one token: read anew, they are a prompt's.
    assert answer.cached_tokens == 20 == bench.metrics.counts[m.REUSED_TOKENS.name]
    assert bench.session.calls[calls].seq_len == (11,)
    assert not bench.session.moves, "it goes on where it stands"
    assert bench.metrics.counts[m.PROMPT_TOKENS.name] == 20 + 11


def test_answers_are_reused_where_that_is_asked_for(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer, reuse_answers=True)
    first = random_ids(20, 1)
    (answer,) = bench.run(asking(first, 5))
    (again,) = bench.run(asking([*first, *written(answer), *random_ids(6, 2)]))
    # The last token of an answer never enters the cache.
    assert again.cached_tokens == 24


@pytest.mark.parametrize(("length", "reused"), [(1, 0), (2, 0), (3, 1), (20, 18)])
def test_the_same_prompt_again_reads_its_last_two_tokens(
    session: Session, tokenizer: TextTokenizer, length: int, reused: int
) -> None:
    bench = Bench(session, tokenizer)
    first, again = (bench.run(asking(random_ids(length, 3)))[0] for _ in range(2))
    assert again.cached_tokens == reused
    assert_same(again, first, length)


def test_no_token_of_a_prompt_has_a_call_of_its_own(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer, chunk_tokens=8)
    bench.run(*(asking(random_ids(length, length), 1) for length in (9, 17, 10, 33)))
    lengths = [length for call in bench.session.calls for length in call.seq_len]
    assert min(lengths) == 2 and sum(lengths) == 9 + 17 + 10 + 33


def test_a_row_in_use_is_copied_from(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer)
    shared = random_ids(20, 1)
    (long,) = bench.submit(asking([*shared, 11, 12], 30))
    for _ in range(3):
        bench.scheduler.step()
    (other,) = bench.run(asking([*shared, 21, 22]))
    assert other.cached_tokens == 20 and (0, 1, 20) in bench.session.moves
    (alone,) = Bench(session, tokenizer, prefix_reuse=False).run(asking([*shared, 21, 22]))
    assert_same(other, alone, "beside the row that it was copied from")
    assert long.new_tokens == 30


def test_a_row_that_holds_more_than_is_shared_is_not_given_up(
    session: Session, tokenizer: TextTokenizer
) -> None:
    bench = Bench(session, tokenizer)
    shared, rest = random_ids(8, 1), random_ids(40, 2)
    bench.run(asking([*shared, *rest], 1))
    (other,) = bench.run(asking([*shared, *random_ids(9, 3)], 1))
    (again,) = bench.run(asking([*shared, *rest, 5, 6], 1))
    assert (other.cached_tokens, again.cached_tokens) == (8, 48)


def test_the_row_that_was_freed_first_is_given_up(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer)
    prompts = [random_ids(12, seed) for seed in range(ROWS + 1)]
    for prompt in prompts:
        bench.run(asking(prompt, 1))
    answers = [bench.run(asking([*prompts[index], 5, 6], 1))[0] for index in (2, 1, 4, 3, 0)]
    assert [answer.cached_tokens for answer in answers] == [12, 12, 12, 12, 0]


def test_what_a_row_holds_goes_where_the_row_goes(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer)
    prompts = [random_ids(12, seed) for seed in range(3)]
    first, short, last = bench.submit(
        *(asking(ids, new) for ids, new in zip(prompts, (40, 2, 40), strict=True))
    )
    while not bench.session.swaps:
        bench.scheduler.step()
    assert short.is_final and bench.session.swaps == [(2, 1, 13)], "the last row took the place of the second"
    again = asking([*prompts[1], 5, 6])
    (answer,) = bench.run(again)
    without = Bench(session, tokenizer, prefix_reuse=False)
    assert answer.cached_tokens == 12
    for sent, found in ((again, answer), (asking(prompts[0], 40), first), (asking(prompts[2], 40), last)):
        assert_same(found, without.run(sent)[0], sent)


def test_a_cancelled_request_leaves_what_was_read(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer, chunk_tokens=8)
    prompt = random_ids(40, 1)
    (cancelled,) = bench.submit(asking(prompt))
    for _ in range(2):
        bench.scheduler.step()
    cancelled.cancelled = True
    bench.scheduler.step()
    (again,) = bench.run(asking(prompt))
    (alone,) = Bench(session, tokenizer, prefix_reuse=False).run(asking(prompt))
    assert cancelled.error is not None and again.cached_tokens == 16
    assert_same(again, alone, "after a cancelled one")


@pytest.mark.parametrize("failure", [{"fails": {2}}, {"nan": {2: 0}}], ids=["call", "logits"])
def test_what_failed_leaves_nothing(
    session: Session, tokenizer: TextTokenizer, failure: dict[str, Any]
) -> None:
    bench = Bench(FailingSession(session, **failure), tokenizer)
    (failed,) = bench.run(asking(random_ids(20, 1)))
    (again,) = bench.run(asking(random_ids(20, 1)))
    assert failed.error is not None and again.error is None and again.cached_tokens == 0


def test_a_prompt_that_is_scored_is_read_as_a_whole(session: Session, tokenizer: TextTokenizer) -> None:
    bench = Bench(session, tokenizer)
    scored = asking(random_ids(20, 1), 2, echo="the prompt")
    bench.run(replace(scored, echo=None))
    (answer,) = bench.run(scored)
    assert answer.cached_tokens == 0 and len(answer.logprobs) == 22


def test_a_pinned_prompt_stays_whatever_comes(session: Session, tokenizer: TextTokenizer) -> None:
    pinned = random_ids(17, 1)
    bench = Bench(session, tokenizer, pinned=pinned, prefix_reuse=False, chunk_tokens=8)
    others = [asking(random_ids(20, seed), 2) for seed in range(2, 12)]
    with_pinned = [asking([*pinned, *random_ids(9, seed)], 4) for seed in range(20, 28)]
    answers = bench.run(*others, *with_pinned)
    assert [answer.cached_tokens for answer in answers] == [0] * len(others) + [17] * len(with_pinned)
    assert max(len(call.seq_len) for call in bench.session.calls) == ROWS - 1
    without = Bench(session, tokenizer, prefix_reuse=False, chunk_tokens=8)
    for sent, answer in zip(with_pinned, answers[len(others) :], strict=True):
        assert_same(answer, without.run(sent)[0], sent)


def test_a_pinned_prompt_needs_room(session: Session, tiny_engine: Path, tokenizer: TextTokenizer) -> None:
    with pytest.raises(ConfigError, match=r"no room(.|\n)*64 tokens"):
        Bench(session, tokenizer, pinned=random_ids(CAPACITY, 1))
    one_row = serving_session(tiny_engine, 1, threads=1)
    with pytest.raises(ConfigError, match="takes a row"):
        Bench(one_row, tokenizer, pinned=random_ids(4, 1))
    one_row.close()


def test_a_pinned_text_is_the_systems_message(tokenizer: TextTokenizer) -> None:
    ids = pinned_ids("Be brief.", tokenizer)
    conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]
    prompt = tokenizer.encode("Be brief. Who?") if tokenizer.is_raw else tokenizer.encode_chat(conversation)
    assert ids == prompt[: len(ids)] and len(ids) >= 3
    with pytest.raises(ConfigError, match="empty"):
        pinned_ids(" \n", tokenizer)
