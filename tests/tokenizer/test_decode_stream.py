"""Pieces of a stream together are what the tokenizers library makes of all tokens at once: every decoder."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import write_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = [
    SPACE,
    SPACE * 2,
    f"{SPACE}Hello",
    f"{SPACE}a",
    "lo",
    "!",
    "你",
    "好",
    ".",
    " ",
    "",
    "##ing",
    "n't",
    "<0x4>",
]
ODD_WORDS = ["x</w>", "</w>", "<pad>", "|", "<0x+4>", "<0xe4>", f"{SPACE}<0xE4>", "a", "aa", REPLACEMENT]
VOCABULARY = [*BYTES, *WORDS, *ODD_WORDS]

LLAMA = [
    decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
]  # fmt: skip
# Those that give text before the end, and by how the list may be cut.
STREAMED: dict[str, Any] = {
    "none": None,
    "Llama": decoders.Sequence(LLAMA),
    "Llama, nested": decoders.Sequence([decoders.Sequence(LLAMA[:2]), decoders.Sequence(LLAMA[2:])]),
    "Gemma": decoders.Sequence(LLAMA[:3]),
    "without Fuse": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
    "byte fallback alone": decoders.ByteFallback(),
    "spaces after the join": decoders.Sequence([*LLAMA[1:3], LLAMA[0], decoders.Strip(" ", 3, 0)]),
    "a byte behind a replacement": decoders.Sequence([decoders.Replace(SPACE, ""), *LLAMA[1:3]]),
    "Metaspace": decoders.Metaspace(),
    "Metaspace, never prepended": decoders.Metaspace(prepend_scheme="never"),
    "WordPiece": decoders.WordPiece(),
    "WordPiece, as it is": decoders.WordPiece(cleanup=False),
    "the first letter replaced": decoders.Sequence([decoders.Replace("a", "bcd"), decoders.Fuse()]),
    "every token stripped": decoders.Strip(" ", 1, 0),
    "a pattern for every token": decoders.Replace(Regex("l+"), "LL"),
    "Fuse": decoders.Fuse(),
    "ByteLevel": decoders.ByteLevel(),
}
AT_THE_END: dict[str, Any] = {
    "BPE": decoders.BPEDecoder(),
    "CTC": decoders.CTC(),
    "a pattern after the join": decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("lo!"), "?")]),
    "a text after the join": decoders.Sequence([decoders.Fuse(), decoders.Replace("lo!", "?")]),
    "stripped at the end": decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)]),
    "a letter stripped": decoders.Sequence([decoders.Fuse(), decoders.Strip("a", 1, 0)]),
    "Metaspace after the join": decoders.Sequence([decoders.Fuse(), decoders.Metaspace()]),
    "bytes after the join": decoders.Sequence([decoders.Fuse(), decoders.ByteFallback()]),
    "a pattern first": decoders.Sequence([decoders.Replace(Regex(SPACE), ""), decoders.ByteFallback()]),
    "ByteLevel and more": decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)]),
}  # fmt: skip


def loaded(directory: Path, decoder: Any) -> TextTokenizer:
    """A tokenizer of `VOCABULARY` and two added tokens with a decoder."""
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(VOCABULARY)}, unk_token="!"))
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.add_tokens([AddedToken("<|tool 世界|>", special=False), AddedToken("</s>", special=True)])
    tokenizer.save(str(directory / "tokenizer.json"))
    return tokenizer_from_dir(directory)


def pieces_of(tokenizer: TextTokenizer, ids: list[int]) -> list[str]:
    """What a stream gives for every token, and at its end."""
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in ids]
    pieces.append(stream.finish())
    assert stream.finish() == "", "a second end has nothing"
    return pieces


def random_ids(rng: random.Random) -> list[int]:
    """Ids of words, of bytes in runs valid and not, of added tokens, and none that exists."""
    ids: list[int] = []
    for _ in range(rng.randrange(1, 12)):
        text = rng.choice(["你好", "🦙", "é", "a", REPLACEMENT, "\x00"]).encode()
        run = [*text[: rng.randrange(len(text) + 1)]]
        ids += rng.choice([run, [rng.randrange(256)], [rng.randrange(256, len(VOCABULARY) + 4)]])
    return ids


@pytest.mark.parametrize("case", [*STREAMED, *AT_THE_END])
def test_random_ids(tmp_path: Path, case: str) -> None:
    tokenizer = loaded(tmp_path, {**STREAMED, **AT_THE_END}[case])
    rng = random.Random(case)
    oracle = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    isolated = tokenizer.runs_apart
    for _ in range(100 if isolated else 1000):
        # The library panics where it strips the end of an empty text.
        ids = [VOCABULARY.index("lo")] * (case == "stripped at the end") + random_ids(rng)
        shown = [token for token in ids if oracle.id_to_token(token) != "</s>"]
        whole = oracle.decode(shown, skip_special_tokens=False)
        pieces = pieces_of(tokenizer, ids)
        assert "".join(pieces) == whole == tokenizer.decode(ids), (ids, pieces)
        assert case in STREAMED or not any(pieces[:-1]), "it may change until the end"


@pytest.mark.parametrize("case", STREAMED)
def test_text_comes_at_once(tmp_path: Path, case: str) -> None:
    """Behind the first letter, every token that is no byte brings its text with itself."""
    tokenizer = loaded(tmp_path, STREAMED[case])
    ids = [VOCABULARY.index(word) for word in ("lo", "n't", "!", f"{SPACE}Hello", "lo")]
    pieces = pieces_of(tokenizer, ids)
    assert all(pieces[:-1]), pieces
    assert pieces[-1] == ""


def llama_2_like(directory: Path) -> TextTokenizer:
    """Letters, all else in bytes, words begin with a space: what SentencePiece models are converted to."""
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = {token: n for n, token in enumerate(["<unk>", "<s>", "</s>", *BYTES, SPACE, *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(LLAMA)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    return tokenizer_from_dir(directory)


def random_text(rng: random.Random) -> str:
    alphabet = ["abc XYZ.,!?", "你好世界", "🙂🦙🧑‍🚀", "éüçß", "  \n\t", "\u0301\u200d\ufeff", REPLACEMENT]
    return "".join(rng.choice(rng.choice(alphabet)) for _ in range(rng.randrange(1, 40)))


@pytest.mark.parametrize("style", ["byte fallback", "byte level"])
def test_random_texts(tmp_path: Path, style: str) -> None:
    if style == "byte fallback":
        tokenizer = llama_2_like(tmp_path)
    else:
        write_tokenizer(tmp_path)
        tokenizer = tokenizer_from_dir(tmp_path)
    rng = random.Random(style)
    for _ in range(3000):
        text = random_text(rng)
        ids = tokenizer.encode(text, add_special_tokens=False)
        pieces = pieces_of(tokenizer, ids)
        assert "".join(pieces) == tokenizer.decode(ids) == text, pieces
        assert REPLACEMENT in text or not any(REPLACEMENT in piece for piece in pieces)


def test_what_ends_inside_a_character_ends_with_a_replacement(tmp_path: Path) -> None:
    for directory, make in ((tmp_path / "a", llama_2_like), (tmp_path / "b", _byte_level)):
        directory.mkdir()
        tokenizer = make(directory)
        ids = tokenizer.encode("a🦙", add_special_tokens=False)[:-1]
        pieces = pieces_of(tokenizer, ids)
        assert "".join(pieces) == tokenizer.decode(ids)
        assert pieces[-1].startswith(REPLACEMENT) and not any(REPLACEMENT in piece for piece in pieces[:-1])


def _byte_level(directory: Path) -> TextTokenizer:
    write_tokenizer(directory)
    return tokenizer_from_dir(directory)


def test_a_tokenizer_that_runs_apart_streams_too(tmp_path: Path) -> None:
    """A pattern of its own puts it into another process; the bytes are joined here all the same."""
    tokenizer = Tokenizer(models.BPE({token: n for n, token in enumerate(BYTES)}, [], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(x+)+y"), "isolated")
    tokenizer.decoder = decoders.Sequence([*LLAMA[1:3], decoders.Replace("好", "!")])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    apart = tokenizer_from_dir(tmp_path)
    assert apart.runs_apart
    ids = list("你好a".encode())
    assert "".join(pieces_of(apart, ids)) == apart.decode(ids) == "你!a"
