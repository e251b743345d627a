"""A build's profiles.json: what is written is read back, and nothing else gets in."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hostile_documents import mutants

from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.profiles import InputRange, OptimizationProfile, load_profiles, save_profiles

SEED = 8
PROFILES = [
    OptimizationProfile(
        name=name,
        inputs={
            "input_ids": InputRange(min=(1, 1), opt=(1, tokens), max=(4, tokens)),
            "past_len": InputRange(min=(1,), opt=(1,), max=(4,)),
        },
    )
    for name, tokens in (("prefill", 64), ("decode", 1))
]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    save_profiles(PROFILES, tmp_path / "profiles.json")
    assert load_profiles(tmp_path / "profiles.json") == PROFILES


@pytest.mark.parametrize(
    "content",
    [
        "", "{}", "[]", '[{"name": 1}]', '[{"name": "x", "inputs": {"a": {"min": 3}}}]', "[" * 100_000,
        '[{"name": "x", "inputs": {"a": {"min": [8], "opt": [4], "max": [8]}}}]',
        '[{"name": "x", "inputs": {"a": {"min": [true], "opt": [1], "max": [8]}}}]',
        '[{"name": "x", "inputs": {"a": {"min": ["1"], "opt": [1.0], "max": [8]}}}]',
    ],
    ids=lambda content: content[:60],
)  # fmt: skip
def test_damaged_profiles_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "profiles.json"
    path.write_text(content)
    with pytest.raises(ArtifactError) as caught:
        load_profiles(path)
    assert caught.value.details["where"] == str(path)


def test_hostile_profiles_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "profiles.json"
    save_profiles(PROFILES, path)
    document = {"profiles": json.loads(path.read_text())}
    refused = 0
    for mutant in random.Random(SEED).sample(mutants(document), 400):
        path.write_text(json.dumps(mutant.get("profiles")))
        try:
            save_profiles(load_profiles(path), path)
        except ArtifactError as error:
            str(error).encode("utf-8")
            assert error.details["where"] == str(path)
            refused += 1
    assert 200 < refused < 400
