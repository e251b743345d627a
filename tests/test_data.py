"""The shipped texts are large enough, different from each other and well-formed."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

import r1trt.data
from r1trt.data import calibration_text, heldout_text, validation_prompts

MIN_TOKENS = 6000


def test_texts_hold_enough_tokens(smollm2_dir: Path) -> None:
    tokenizer = Tokenizer.from_file(str(smollm2_dir / "tokenizer.json"))
    assert len(tokenizer.encode(heldout_text()).ids) >= MIN_TOKENS
    assert sum(len(tokenizer.encode(text).ids) for text in calibration_text()) >= MIN_TOKENS


def test_calibration_is_mixed_and_shares_nothing_with_the_held_out_text() -> None:
    documents = calibration_text()
    assert len(documents) >= 10 and all(document.strip() for document in documents)
    assert any("<|im_start|>user" in document for document in documents)
    assert any("\ndef " in document for document in documents)
    held_out = {line for line in heldout_text().splitlines() if len(line) > 40}
    assert not held_out & {line for document in documents for line in document.splitlines()}


def test_prompts_are_twenty_different_ones() -> None:
    assert len(set(validation_prompts())) == 20


def test_the_texts_stay_small_and_their_sources_are_named() -> None:
    folder = Path(r1trt.data.__file__).parent
    files = [path for path in folder.iterdir() if path.suffix in (".txt", ".jsonl")]
    assert sum(path.stat().st_size for path in files) < 200_000
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert all(path.name in readme for path in files)
