"""The shipped texts are large enough, different from each other and well-formed."""

from __future__ import annotations

from pathlib import Path

import pytest

import r1trt.data
from r1trt.data import CALIBRATION, HELDOUT
from r1trt.runtime.prompts import documents_from_file, token_ids
from r1trt.search.config import SearchConfig
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir

MIN_TOKENS = {CALIBRATION: 6000, HELDOUT: SearchConfig.final_tokens}


@pytest.mark.parametrize("path", MIN_TOKENS, ids=lambda path: path.name)
def test_texts_hold_enough_tokens(smollm2_dir: Path, path: Path) -> None:
    tokenizer = tokenizer_from_dir(smollm2_dir)
    documents = documents_from_file(path)
    assert sum(len(token_ids(document, tokenizer)) for document in documents) >= MIN_TOKENS[path]


def test_calibration_is_mixed_and_shares_nothing_with_the_held_out_text() -> None:
    documents = documents_from_file(CALIBRATION)
    assert len(documents) >= 10 and all(document.text.strip() or document.messages for document in documents)
    assert any("\ndef " in document.text for document in documents)
    conversations = [document.messages for document in documents if document.messages]
    assert conversations and all(messages[-1]["role"] == "assistant" for messages in conversations)
    pieces = [document.text for document in documents]
    pieces += [message["content"] for messages in conversations for message in messages]
    assert not any("<|im_start|>" in piece for piece in pieces), "no model's markers stand in the text"
    held_out = {line for line in HELDOUT.read_text(encoding="utf-8").splitlines() if len(line) > 40}
    assert not held_out & {line for piece in pieces for line in piece.splitlines()}


def test_the_texts_stay_small_and_their_sources_are_named() -> None:
    folder = Path(r1trt.data.__file__).parent
    files = [path for path in folder.iterdir() if path.suffix in (".txt", ".jsonl")]
    assert sum(path.stat().st_size for path in files) < 200_000
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert all(path.name in readme for path in files)
