"""Tokens that only the files beside tokenizer.json name: ids and texts as transformers has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import write_tokenizer
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

from r1trt.errors import CheckpointError
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir

CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"


def token(content: str, **flags: bool) -> dict[str, Any]:
    """A token as tokenizer_config.json spells it."""
    names = ("lstrip", "normalized", "rstrip", "single_word", "special")
    return {"content": content, **dict.fromkeys(names, False), **flags}


def object_of(content: str, **flags: bool) -> dict[str, Any]:
    """A token as older tokenizer_config.json spell it."""
    return {"__type": "AddedToken", **token(content, **flags)}


FIRST = 1000  # stands for the first id that is free
# What is written over the tiny tokenizer's own files; `None` removes a file or key.
CASES: dict[str, dict[str, Any]] = {
    "listed": {CONFIG: {"added_tokens_decoder": {FIRST: token("<|tool|>", special=True)}}},
    "listed, not special": {CONFIG: {"added_tokens_decoder": {FIRST: token("<tool>", normalized=True)}}},
    "listed out of order": {
        CONFIG: {
            "added_tokens_decoder": {FIRST + 1: token("<b>"), FIRST: token("<|tool|>"), 0: token("<unk>")}
        }
    },
    "listed, strips": {
        CONFIG: {"added_tokens_decoder": {FIRST: token("<|tool|>", lstrip=True, rstrip=True, special=True)}}
    },
    "listed with a gap": {CONFIG: {"added_tokens_decoder": {FIRST + 7: token("<|tool|>")}}},
    "listed, so other files do not count": {
        CONFIG: {"added_tokens_decoder": {FIRST: token("<|tool|>")}},
        ADDED: {"<b>": FIRST + 1},
        MAP: {"pad_token": "<pad>", "additional_special_tokens": ["<tool>"]},
    },
    "added": {ADDED: {"<|tool|>": FIRST, "<b>": FIRST + 1}},
    "added, the later first": {ADDED: {"<b>": FIRST + 1, "<|tool|>": FIRST}},
    "added and special": {ADDED: {"<|tool|>": FIRST}, MAP: {"pad_token": "<|tool|>"}},
    "added and extra": {ADDED: {"<|tool|>": FIRST}, CONFIG: {"extra_special_tokens": ["<|tool|>", "<b>"]}},
    "map": {MAP: {"pad_token": token("<|tool|>", rstrip=True), "eos_token": "<b>"}},
    "map over config": {CONFIG: {"pad_token": "<b>"}, MAP: {"pad_token": "<|tool|>"}},
    "map, additional": {MAP: {"additional_special_tokens": ["<|tool|>", "<b>"]}},
    "named in the config alone": {CONFIG: {"pad_token": "<|tool|>", "cls_token": "<b>"}},
    "named by an object": {CONFIG: {"pad_token": object_of("<|tool|>", lstrip=True)}},
    "additional": {CONFIG: {"additional_special_tokens": ["<|tool|>", "<b>"]}},
    "extra": {CONFIG: {"extra_special_tokens": ["<|tool|>"]}},
    "extra with names": {CONFIG: {"extra_special_tokens": {"tool_token": "<|tool|>"}}},
    "a name of the model's own": {CONFIG: {"image_token": "<|tool|>"}},
    "a word that was text becomes special": {CONFIG: {"pad_token": "a"}},
    "nothing": {},
}
TEXTS = ["a<|tool|>b", " <|tool|> <b> x", "<tool>a<b><pad>", "plain", "<b><|tool|><|tool|>", "a a"]


def directory_with(path: Path, files: Mapping[str, Mapping[str, Any]]) -> Path:
    """The tiny tokenizer with changes, `FIRST` being the first id that it does not have."""
    write_tokenizer(path)
    free = Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab_size()
    for name, changes in files.items():
        text = json.dumps(changes)
        for offset in range(10):
            text = text.replace(f'"{FIRST + offset}"', f'"{free + offset}"').replace(
                f": {FIRST + offset}", f": {free + offset}"
            )
        old = json.loads((path / name).read_text()) if (path / name).exists() else {}
        (path / name).write_text(json.dumps(old | json.loads(text)))
    return path


@pytest.mark.parametrize("case", CASES)
def test_ids_and_texts_equal_transformers(tmp_path: Path, case: str) -> None:
    directory = directory_with(tmp_path, CASES[case])
    oracle, tokenizer = AutoTokenizer.from_pretrained(directory), tokenizer_from_dir(directory)
    for text in TEXTS:
        ids = oracle(text).input_ids
        assert tokenizer.encode(text) == ids, text
        assert tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)
        assert tokenizer.decode(ids, skip_special_tokens=False) == oracle.decode(ids)
    assert tokenizer.special_tokens == oracle.special_tokens_map


def test_tokens_with_another_id_than_the_one_meant_are_told(tmp_path: Path) -> None:
    for case in ("listed", "listed, not special", "added", "added, the later first", "nothing"):
        (tmp_path / case).mkdir()
        assert tokenizer_from_dir(directory_with(tmp_path / case, CASES[case])).other_ids == {}
    directory = directory_with(tmp_path, CASES["listed with a gap"])
    free = Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab_size()
    assert tokenizer_from_dir(directory).other_ids == {"<|tool|>": (free + 7, free)}


@pytest.mark.parametrize(
    "files",
    [
        {CONFIG: {"added_tokens_decoder": {"x": token("<|tool|>")}}},
        {CONFIG: {"added_tokens_decoder": {"-1": token("<|tool|>")}}},
        {CONFIG: {"added_tokens_decoder": {"5": {"special": True}}}},
        {CONFIG: {"added_tokens_decoder": {"5": 7}}},
        {CONFIG: {"extra_special_tokens": [7]}},
        {ADDED: {"<|tool|>": "many"}},
    ],
    ids=json.dumps,
)
def test_what_is_no_token_is_refused(tmp_path: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    with pytest.raises(CheckpointError, match="A token has no") as caught:
        tokenizer_from_dir(directory_with(tmp_path, files))
    assert caught.value.details["where"].endswith(CONFIG)


def test_a_tokenizer_that_runs_apart_has_them_too(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / CONFIG).write_text(json.dumps({"added_tokens_decoder": {"2": token("<|tool|>")}}))
    tokenizer = tokenizer_from_dir(tmp_path)
    assert tokenizer.runs_apart and tokenizer.encode("<|tool|>a") == [2, 0]
