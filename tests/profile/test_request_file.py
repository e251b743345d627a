"""The file of --input: its forms, and every way in which it can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import write_tokenizer

from r1trt.errors import ConfigError
from r1trt.ops.cost import CallSize
from r1trt.profile.request_file import request_file
from r1trt.profile.requests import RequestBatch, default_requests
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir

VOCABULARY = 320


def read(tmp_path: Path, content: Any, tokenizer: Path | None = None) -> RequestBatch:
    path = tmp_path / "requests.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return request_file(path).requests(tokenizer, vocab_size=VOCABULARY)


def test_lengths(tmp_path: Path) -> None:
    found = read(tmp_path, {"batch": 3, "prompt_tokens": 7, "new_tokens": 2})
    assert found == RequestBatch(prompt_tokens=(7, 7, 7), new_tokens=2)
    assert read(tmp_path, {"prompt_tokens": 7}) == RequestBatch(prompt_tokens=(7,), new_tokens=128)


def test_unequal_lengths_are_padded(tmp_path: Path) -> None:
    found = read(tmp_path, {"prompt_tokens": [6, 2], "new_tokens": 3})
    assert (found.size, found.longest, found.useful_share) == (2, 6, 8 / 12)
    assert found.calls() == {
        "prefill": [CallSize(batch=2, tokens=6)],
        "decode": [CallSize(batch=2, tokens=1, past=6), CallSize(batch=2, tokens=1, past=7)],
    }
    assert found.tokens == 8


def test_long_prompts_are_read_in_calls_that_an_engine_takes() -> None:
    calls = RequestBatch(prompt_tokens=(10,), new_tokens=1).calls(most_tokens=4)
    assert calls == {
        "prefill": [CallSize(batch=1, tokens=size, past=past) for size, past in ((4, 0), (4, 4), (2, 8))]
    }


def test_prompts_are_tokens_of_the_models_template(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    conversation = {"messages": [{"role": "user", "content": "Every function writes"}]}
    found = read(tmp_path, {"prompts": ["Every function writes", conversation], "new_tokens": 4}, tmp_path)
    first, second = found.token_ids
    assert first == second and found.prompt_tokens == (len(first), len(first))
    text = tokenizer_from_dir(tmp_path).decode(list(first))
    assert "Every function writes" in text and "assistant" in text


def test_prompts_need_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="need a tokenizer"):
        read(tmp_path, {"prompts": ["a"]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "invalid JSON"),
        ('{"prompt_tokens": 1', "invalid JSON"),
        ({}, "neither of prompt_tokens and prompts"),
        ({"prompt_tokens": 4, "prompts": ["a"]}, "both of prompt_tokens and prompts"),
        ({"prompt_tokens": 4, "tokens": 3}, "unknown keys tokens"),
        ({"prompt_tokens": 0}, "prompt_tokens is 0; a whole number from 1"),
        ({"prompt_tokens": [4, True]}, "prompt_tokens is True"),
        ({"prompt_tokens": 1 << 40}, "a whole number from 1 to 262144"),
        ({"prompt_tokens": 4.5}, "prompt_tokens is 4.5"),
        ({"prompt_tokens": []}, "prompt_tokens has 0 entries"),
        ({"prompt_tokens": [1, 2], "batch": 3}, "batch is 3, and prompt_tokens has 2 entries"),
        ({"prompt_tokens": 4, "batch": "8"}, "batch is '8'"),
        ({"prompt_tokens": 4, "new_tokens": None}, "new_tokens is None"),
        ({"prompts": "a"}, "prompts is 'a'; a list"),
        ({"prompts": []}, "prompts has 0 entries"),
        ({"prompts": ["a", 5]}, r"prompts\[1\] is 5"),
        ({"prompts": [""]}, r"prompts\[0\] is ''"),
    ],
)
def test_files_of_another_form(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, content)
    assert "requests.json" in caught.value.details["where"]


def test_all_that_is_wrong_is_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, {"prompt_tokens": 0, "batch": -1, "new_tokens": 0, "odd": 1})
    assert caught.value.details["found"].count("\n") == 4


@pytest.mark.parametrize(
    ("prompt", "message"),
    [({"odd": "a"}, "A prompt is of another form"), ({"messages": []}, "messages")],
)
def test_prompts_of_another_form(prompt: Any, message: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, {"prompts": [prompt]}, tmp_path)


@pytest.mark.parametrize("longest", [1, 2, 64, 640, 100_000])
def test_the_default_fits_every_model(longest: int) -> None:
    assert default_requests(longest).tokens <= longest
    assert default_requests(100_000) == RequestBatch(prompt_tokens=(512,), new_tokens=128)


def test_a_batch_has_requests() -> None:
    for lengths, new_tokens in (((), 1), ((0,), 1), ((1,), 0), ((1,) * ((1 << 16) + 1), 1)):
        with pytest.raises(ConfigError, match="A batch has requests"):
            RequestBatch(prompt_tokens=lengths, new_tokens=new_tokens)
