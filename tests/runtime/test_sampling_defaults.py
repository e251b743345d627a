"""What a model's generation_config.json says of sampling, and what overrides it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from r1trt.errors import CheckpointError, ConfigError
from r1trt.runtime.sampling import SamplingConfig
from r1trt.runtime.sampling_defaults import SamplingDefaults, sampling_defaults_from_dir

R1 = {"bos_token_id": 0, "eos_token_id": 1, "do_sample": True, "temperature": 0.6, "top_p": 0.95}
QWEN2 = {"do_sample": True, "repetition_penalty": 1.1, "temperature": 0.7, "top_p": 0.8, "top_k": 20}


def defaults_of(directory: Path, content: Any) -> SamplingDefaults:
    (directory / "generation_config.json").write_text(json.dumps(content))
    return sampling_defaults_from_dir(directory)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (R1, SamplingConfig(temperature=0.6, top_p=0.95)),
        (QWEN2, SamplingConfig(temperature=0.7, top_p=0.8, top_k=20)),
        ({"do_sample": True}, SamplingConfig(temperature=1.0)),
        ({"do_sample": True, "top_k": None, "temperature": None}, SamplingConfig(temperature=1.0)),
        ({"do_sample": True, "top_k": 0, "top_p": 1}, SamplingConfig(temperature=1.0)),
        ({"temperature": 0.6, "top_p": 0.95}, SamplingConfig()),
        ({**R1, "do_sample": False}, SamplingConfig()),
        ({}, SamplingConfig()),
    ],
)
def test_the_files_values_hold(tmp_path: Path, content: dict[str, Any], expected: SamplingConfig) -> None:
    assert defaults_of(tmp_path, content).config() == expected


def test_without_a_file_the_most_likely_token_is_taken(tmp_path: Path) -> None:
    assert sampling_defaults_from_dir(tmp_path) == SamplingDefaults()
    assert SamplingDefaults().config() == SamplingConfig()


def test_given_values_override_one_by_one(tmp_path: Path) -> None:
    defaults = defaults_of(tmp_path, R1)
    assert defaults.config(temperature=0.0).temperature == 0.0
    assert defaults.config(top_k=5, seed=3) == SamplingConfig(temperature=0.6, top_k=5, top_p=0.95, seed=3)
    assert defaults.config(top_p=1.0) == SamplingConfig(temperature=0.6)
    with pytest.raises(ConfigError, match="top_p is out of range"):
        defaults.config(top_p=0.0)


def test_what_is_not_done_is_named(tmp_path: Path) -> None:
    assert defaults_of(tmp_path, R1).note is None
    assert defaults_of(tmp_path, QWEN2).note == (
        "generation_config.json asks for repetition_penalty 1.1, which is not done here."
    )
    nothing = {"repetition_penalty": 1.0, "num_beams": 1, "min_p": None, "no_repeat_ngram_size": 0}
    assert defaults_of(tmp_path, {**R1, **nothing}).note is None
    assert defaults_of(tmp_path, {"min_p": 0.1}).note is None
    assert "stop_strings" in (defaults_of(tmp_path, {"stop_strings": ["x"]}).note or "")
    assert "num_beams 4" in (defaults_of(tmp_path, {"num_beams": 4}).note or "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -1}, "temperature is out of range"),
        ({"temperature": "0.6"}, "temperature is no number"),
        ({"top_p": 1.5}, "top_p is out of range"),
        ({"top_p": True}, "top_p is no number"),
        ({"top_k": -1}, "top_k is out of range"),
        ({"top_k": [50]}, "top_k is no number"),
        ({"top_k": 0.9}, "top_k is no whole number"),
        ({"temperature": 10**400}, "temperature is no number"),
    ],
)
def test_values_that_are_none_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        defaults_of(tmp_path, {**R1, **change})
    assert caught.value.details["where"] == str(tmp_path / "generation_config.json")


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (SamplingConfig(), "temperature 0"),
        (SamplingConfig(top_p=0.5), "temperature 0"),
        (SamplingConfig(temperature=0.6, top_p=0.95), "temperature 0.6, top-p 0.95"),
        (SamplingConfig(temperature=1.0, top_k=50), "temperature 1, top-k 50"),
    ],
)
def test_sampling_in_words(config: SamplingConfig, text: str) -> None:
    assert config.text == text
