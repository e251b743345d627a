"""One sequence's tokens, from logits that are made up; its ends, with a tokenizer of whole words."""

from __future__ import annotations

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders
from tokenizers.models import WordLevel

from r1trt.errors import ConfigError
from r1trt.runtime.continuation import Continuation, Piece
from r1trt.runtime.sampling import SamplingConfig
from r1trt.tokenizer.text_tokenizer import TextTokenizer

WORDS = ("a", "b", "c", "<end>")
EOS = 3
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
PADDED_VOCAB = 8


def continuation(
    *, max_new_tokens: int = 10, stop: tuple[str, ...] = (), ignores_eos: bool = False
) -> Continuation:
    model = WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="a")
    tokenizer = TextTokenizer(
        tokenizers.Tokenizer(model), special_tokens={}, chat_template=None, eos_ids=frozenset({EOS})
    )
    return Continuation(
        tokenizer,
        sampling=SamplingConfig(),
        max_new_tokens=max_new_tokens,
        stop=stop,
        ignores_eos=ignores_eos,
    )


def run(sequence: Continuation, tokens: list[int]) -> list[Piece]:
    return [sequence.take(np.eye(PADDED_VOCAB, dtype=np.float32)[token]) for token in tokens]


def test_each_end_is_named_and_gives_its_text() -> None:
    assert run(continuation(), [0, EOS])[-1] == Piece(token=EOS, text="", finish_reason="eos")
    assert run(continuation(max_new_tokens=2), [0, 1])[-1] == Piece(
        token=1, text=" b", finish_reason="length"
    )
    stopped = run(continuation(stop=("b c",)), [0, 1, 2])
    assert "".join(piece.text for piece in stopped) == "a "
    assert [piece.finish_reason for piece in stopped] == [None, None, "stop"]


def test_the_end_token_may_end_nothing() -> None:
    pieces = run(continuation(max_new_tokens=4, ignores_eos=True), [0, EOS, EOS, 1])
    assert [piece.finish_reason for piece in pieces] == [None, None, None, "length"]
    assert "".join(piece.text for piece in pieces).split() == ["a", "b"]


@pytest.mark.parametrize(("tokens", "limit"), [([0, 1, EOS], 10), ([0, 1], 2)], ids=["eos", "length"])
def test_text_that_might_have_become_a_stop_text_comes_with_the_end(tokens: list[int], limit: int) -> None:
    pieces = run(continuation(max_new_tokens=limit, stop=("b c",)), tokens)
    assert "".join(piece.text for piece in pieces) == "a b"


def test_a_sequence_that_is_ended_from_outside_gives_what_it_held_back() -> None:
    sequence = continuation(stop=("b c",))
    text = "".join(piece.text for piece in run(sequence, [0, 1]))
    assert text + sequence.held_back() == "a b" and sequence.held_back() == ""


BYTES = ("a", "<0xE4>", "<0xBD>", "<end>", "!")


def continuation_of_bytes(*, max_new_tokens: int = 10, stop: tuple[str, ...] = ()) -> Continuation:
    model = WordLevel({word: index for index, word in enumerate(BYTES)}, unk_token="a")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    loaded = TextTokenizer(tokenizer, special_tokens={}, chat_template=None, eos_ids=frozenset({EOS}))
    return Continuation(loaded, sampling=SamplingConfig(), max_new_tokens=max_new_tokens, stop=stop)


@pytest.mark.parametrize(("tokens", "limit"), [([0, 1, 2, EOS], 10), ([0, 1, 2], 3)], ids=["eos", "length"])
def test_half_a_character_comes_with_the_end(tokens: list[int], limit: int) -> None:
    assert [piece.text for piece in run(continuation_of_bytes(max_new_tokens=limit), tokens)][:2] == ["a", ""]
    pieces = run(continuation_of_bytes(max_new_tokens=limit), tokens)
    assert "".join(piece.text for piece in pieces) == "a" + 2 * REPLACEMENT
    stopped = run(continuation_of_bytes(max_new_tokens=limit, stop=(REPLACEMENT,)), tokens)
    assert "".join(piece.text for piece in stopped) == "a"


def test_half_a_character_comes_when_it_is_ended_from_outside() -> None:
    sequence = continuation_of_bytes()
    run(sequence, [0, 1])
    assert sequence.held_back() == REPLACEMENT and sequence.held_back() == ""
    stopped = continuation_of_bytes(stop=("a!",))
    run(stopped, [0, 4])
    assert stopped.held_back() == ""


def test_padding_of_the_vocabulary_is_never_chosen() -> None:
    logits_V = np.zeros(PADDED_VOCAB, np.float32)
    logits_V[2], logits_V[len(WORDS) :] = 1, 9
    assert continuation().take(logits_V).token == 2


def test_logits_that_are_not_numbers() -> None:
    with pytest.raises(ConfigError, match="not finite numbers"):
        continuation().take(np.full(PADDED_VOCAB, np.nan, np.float32))
