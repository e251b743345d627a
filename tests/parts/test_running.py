"""Models in parts against the same models as one engine, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from numpy.typing import NDArray
from split_models import SplitModel

from r1trt.artifacts.build import BuildArtifact
from r1trt.errors import UnavailableError
from r1trt.runtime.engine_session import session_from_build
from r1trt.runtime.load import session_from_engine
from r1trt.runtime.onnxruntime_model import LoadOptions
from r1trt.runtime.session import Session, SessionError, last_token_logits
from r1trt.serving.session import serving_session

TOLERANCE = 1e-5
NEW_TOKENS = 12
LENGTHS = np.array([29, 21], np.int64)
CHUNKS = ((0, 16), (16, 29))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Small models; with `--all-cases` a real one, too, which takes a minute."""
    if "model" in metafunc.fixturenames:
        every = metafunc.config.getoption("--all-cases")
        names = ["llama", "r1_asa", "deepseek", *(["smollm2"] if every else [])]
        metafunc.parametrize("model", names, indirect=True)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> SplitModel:
    found: SplitModel = request.getfixturevalue(request.param)
    return found


def answered(session: Session) -> tuple[list[NDArray[np.float32]], list[list[int]]]:
    """Logits of real tokens of prompts of two lengths, read in chunks, and of what follows greedily."""
    session.reset(2)
    ids = np.random.default_rng(5).integers(3, min(session.limits.vocab_size, 500), (2, LENGTHS.max()))
    logits, last = [], np.zeros((2, session.limits.vocab_size), np.float32)
    for start, stop in CHUNKS:
        past, real = np.minimum(LENGTHS, start), np.clip(LENGTHS - start, 0, stop - start)
        found = session.step(ids[:, start:stop], real, past)
        logits += [found[row, : real[row]].copy() for row in range(2)]
        last = np.where((real > 0)[:, None], last_token_logits(found, real), last)
    tokens, past = [], LENGTHS.copy()
    for _ in range(NEW_TOKENS):
        tokens.append(last.argmax(-1).tolist())
        last = session.step(np.array(tokens[-1])[:, None], np.ones(2, np.int64), past, only_last=True)[:, -1]
        logits.append(last.copy())
        past = past + 1
    return logits, tokens


def test_tokens_are_equal_and_logits_close(model: SplitModel) -> None:
    with closing(session_from_engine(model.engine(), threads=1)) as whole:
        expected, expected_tokens = answered(whole)
    largest = max(np.abs(logits).max() for logits in expected)
    for parts in sorted({2, 3, model.layers}):
        with closing(session_from_engine(model.engine(parts), threads=1)) as session:
            found, tokens = answered(session)
        assert tokens == expected_tokens, f"{parts} parts"
        worst = max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True))
        assert worst <= TOLERANCE * largest, f"{parts} parts: {worst / largest:.2e}"


def rooms(model: SplitModel) -> Iterator[int]:
    """Memory for one part at a time, for the next one beside it, and for one that stays, too."""
    build = BuildArtifact.read(model.engine(4))
    sizes = sorted(path.stat().st_size for path in build.path.glob("part-*/weights.safetensors"))
    caches = build.manifest.kv_cache_bytes
    yield caches + sizes[-1]
    yield caches + sizes[-1] + sizes[-2]
    yield caches + sum(sizes[1:])


def test_memory_decides_nothing_but_what_is_loaded(llama: SplitModel) -> None:
    build = BuildArtifact.read(llama.engine(4))
    with closing(session_from_build(build)) as all_resident:
        expected = answered(all_resident)[1]
    for memory in rooms(llama):
        with closing(session_from_build(build, LoadOptions(threads=1, memory=memory))) as session:
            assert answered(session)[1] == expected


def test_rows_are_moved_swapped_and_cleared_in_all_parts(llama: SplitModel) -> None:
    ids, one = np.arange(5, 13)[None], np.ones(1, np.int64)
    with closing(session_from_engine(llama.engine(4), threads=1)) as session:
        session.reset(2)
        expected = session.step(ids, 8 * one, 0 * one)[:, -1].copy()
        session.reset(2)
        session.step(ids[:, :7], 7 * one, 0 * one)
        session.swap(0, 1, 7)
        session.clear(0)
        session.move(1, 0, 7)
        for row in range(2):
            found = session.step(ids[:, 7:], one, 7 * one, row)[:, -1]
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_scoring_engines_and_last_logits(llama: SplitModel) -> None:
    ids, lengths = np.arange(5, 21).reshape(2, 8), np.array([8, 5])
    found = []
    for parts in (None, 2):
        with closing(session_from_engine(llama.engine(parts, cache=False), threads=1)) as session:
            session.reset(2)
            found.append(last_token_logits(session.step(ids, lengths, 0 * lengths), lengths).copy())
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=TOLERANCE * np.abs(found[0]).max())


def test_a_server_loads_parts(llama: SplitModel) -> None:
    with closing(serving_session(llama.engine(2), 2, threads=1)) as session:
        assert session.rows == 2 and session.limits.addressable_rows


def test_a_part_that_fits_nowhere_is_refused(llama: SplitModel) -> None:
    with pytest.raises(UnavailableError, match="largest part"):
        session_from_build(BuildArtifact.read(llama.engine(2)), LoadOptions(memory=10_000))


def test_a_part_is_no_model(llama: SplitModel) -> None:
    with pytest.raises(SessionError, match="part of a model"):
        session_from_engine(llama.engine(2) / "part-01")


def test_a_token_outside_of_the_vocabulary_is_refused(llama: SplitModel) -> None:
    with closing(session_from_engine(llama.engine(2), threads=1)) as session:
        session.reset(1)
        with pytest.raises(SessionError, match="vocabulary"):
            session.step(np.array([[10**6]]), np.ones(1, np.int64), np.zeros(1, np.int64))
