"""Drafts that are looked up, and that the text is the one without them."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
from cpu_engines import cpu_engine
from tiny_checkpoints import write_llama

from r1trt.artifacts.manifest import read_manifest, write_manifest
from r1trt.errors import ConfigError
from r1trt.runtime.generate import LOOKUP_NOTE, GenerateConfig, generate
from r1trt.runtime.generation import Generation
from r1trt.runtime.prompt_lookup import PromptLookup
from r1trt.runtime.session import SessionError

CODE = """def mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def variance(values):
    middle = mean(values)
    total = 0.0
    for value in values:
        total += (value - middle) ** 2
    return total / len(values)
"""
PROMPTS = {
    "edit": f"Rename `values` to `numbers` in this code, and give out the whole code:\n\n{CODE}",
    "copy": f"Give out this code as it is:\n\n{CODE}",
    "summary": "Summarize: The Elbe rises in the Giant Mountains of the Czech Republic and flows through"
    " Bohemia and Germany before it reaches the North Sea near Cuxhaven. Its length is 1,094 kilometres.",
    "story": "Write a story about a lighthouse keeper.",
    "list": "List ten facts about whales.",
}
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.7, "top_p": 0.95, "seed": 3},
    "of two": {"temperature": 0.7, "top_k": 2, "seed": 3},
}


@pytest.mark.parametrize(
    ("tokens", "most", "room", "draft"),
    [
        ([1, 2, 3, 4, 5, 1, 2], 4, 9, [3, 4, 5, 1]),
        ([1, 2, 3, 4, 5, 1, 2], 4, 2, [3, 4]),
        ([1, 2, 3, 4, 5, 1, 2], 4, 0, []),
        ([1, 2, 3, 4, 5, 1, 2], 4, -1, []),
        # What followed last, and of the longest that is found.
        ([1, 2, 3, 1, 2, 4, 1, 2], 2, 9, [4, 1]),
        ([7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2], 1, 9, [3]),
        # What runs into the end goes round.
        ([5, 6, 5, 6], 5, 9, [5, 6, 5, 6, 5]),
        ([1, 2, 3, 4], 4, 9, []),
        ([1, 9, 1], 4, 9, []),
        ([1], 4, 9, []),
    ],
)
def test_what_followed_before_is_the_draft(tokens: list[int], most: int, room: int, draft: list[int]) -> None:
    assert PromptLookup(tokens, most).draft(room) == draft
    grown = PromptLookup(tokens[:1], most)
    for token in tokens[1:]:
        grown.draft(0)
        grown.add(token)
    assert grown.draft(room) == draft


def test_a_draft_that_failed_makes_the_next_shorter_and_one_that_did_not_the_longest() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2], 8)
    assert lookup.draft(9) == [3, 4, 5, 6, 7, 8, 9, 1]
    for token in (3, 0, 1, 2):
        lookup.add(token)
    assert (lookup.drafted, lookup.accepted) == (8, 1)
    assert lookup.draft(9) == [3, 0]
    for token in (3, 0, 1, 2):
        lookup.add(token)
    assert lookup.accepted == 3 and lookup.draft(9) == [3, 0, 1, 2, 3, 0, 1, 2]


@pytest.mark.parametrize("most", [0, 65])
def test_lengths_out_of_range(most: int) -> None:
    with pytest.raises(ConfigError, match="of another length"):
        PromptLookup([1], most)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    checkpoint = write_llama(directory / "checkpoint", tokenizer=True, seed=4)
    return cpu_engine(checkpoint, directory, max_seq_len=64, rows=2, last_token_logits=False)


def run(engine: Path, prompt: str, lookup: int, **options: Any) -> tuple[str, Generation]:
    generation = generate(GenerateConfig(engine=engine, prompt=prompt, prompt_lookup=lookup, **options))
    return "".join(generation), generation


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("tokens", [3, 30, 500], ids=["few", "some", "all the cache has room for"])
def test_the_text_is_the_one_without(tiny: Path, sampling: str, tokens: int) -> None:
    options = {**SAMPLINGS[sampling], "raw": True, "max_new_tokens": tokens}
    prompt = "a b c a b c a b"
    (text, plain), (same, drafted) = (run(tiny, prompt, lookup, **options) for lookup in (0, 7))
    assert same == text and drafted.token_ids == plain.token_ids
    assert plain.statistics is not None and drafted.statistics is not None
    assert drafted.statistics.finish_reason == plain.statistics.finish_reason
    assert drafted.statistics.drafted_tokens is not None and plain.statistics.drafted_tokens is None
    assert drafted.statistics.drafted_tokens or sampling == "sampled" or tokens == 3


def test_an_engine_of_last_logits_alone_says_what_to_do(tmp_path: Path) -> None:
    engine = cpu_engine(write_llama(tmp_path / "llama", tokenizer=True), tmp_path, max_seq_len=64, rows=1)
    with pytest.raises(ConfigError, match="of a call's last token only") as caught:
        run(engine, "a", 4)
    assert "export without --last-token-logits" in caught.value.details["fix"]


@pytest.mark.parametrize(("precision", "lookup", "noted"), [("int8", 4, 1), ("int8", 0, 0), ("fp32", 4, 0)])
def test_an_engine_that_rounds_activations_says_that_the_text_may_differ(
    tiny: Path, tmp_path: Path, precision: str, lookup: int, noted: int
) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(tiny, engine)
    write_manifest(engine, {**read_manifest(engine), "precision": precision})
    _, generation = run(engine, "a", lookup, raw=True, max_new_tokens=1)
    assert generation.notes.count(LOOKUP_NOTE) == noted


def test_a_prompt_that_fills_the_cache_is_still_an_error(tiny: Path) -> None:
    with pytest.raises(SessionError, match="longer than the engine's KV cache"):
        run(tiny, "a b " * 64, 4, raw=True)


@pytest.fixture(scope="module")
def smollm2(smollm2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("smollm2")
    return cpu_engine(smollm2_dir, directory, max_seq_len=1024, rows=1, last_token_logits=False)


@pytest.mark.slow
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each prompt with one way of sampling; with `--all-cases` with every one."""
    if metafunc.function is not test_smollm2_writes_the_same:
        return
    every = [(prompt, sampling) for prompt in PROMPTS for sampling in SAMPLINGS]
    few = list(zip(PROMPTS, itertools.cycle(SAMPLINGS), strict=False))
    cases = every if metafunc.config.getoption("--all-cases") else few
    metafunc.parametrize(("prompt", "sampling"), cases)


def test_smollm2_writes_the_same(smollm2: Path, prompt: str, sampling: str) -> None:
    options = {**SAMPLINGS[sampling], "max_new_tokens": 96}
    (text, plain), (same, drafted) = (run(smollm2, PROMPTS[prompt], lookup, **options) for lookup in (0, 8))
    assert drafted.token_ids == plain.token_ids and same == text
    statistics = drafted.statistics
    assert statistics is not None and statistics.accepted_tokens is not None
    if prompt == "edit" and sampling == "greedy":
        assert statistics.accepted_tokens > statistics.new_tokens / 2
