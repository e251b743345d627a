"""`r1trt generate` of a model that thinks before it answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import VOCAB_SIZE, write_llama
from tokenizers import Tokenizer, models, pre_tokenizers

from r1trt.cli import main
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.runtime.generate import GenerateConfig, generate

PROMPT, NEW = "w7 w11 w13", 16


def write_vocabulary(directory: Path, names: dict[int, str], *, template: str | None = None) -> None:
    """A tokenizer of whole words, `w0` and so on, but for the words named."""
    words = {names.get(index, f"w{index}"): index for index in range(VOCAB_SIZE)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_tokens([name for name in names.values() if name.startswith("<")])
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, which runs as it is; it never ends by itself."""
    directory = tmp_path_factory.mktemp("thinking")
    checkpoint = write_llama(directory / "tiny", seed=4, eos_token_id=VOCAB_SIZE - 1)
    write_vocabulary(checkpoint, {})
    return export_checkpoint(ExportConfig(checkpoint=checkpoint, output=directory / "export", max_seq_len=64))


def answer(capsys: pytest.CaptureFixture[str], engine: Path, mode: str) -> dict[str, Any]:
    arguments = ["--prompt", PROMPT, "--max-new-tokens", str(NEW), "--thinking", mode, "--json"]
    assert main(["generate", str(engine), *arguments]) == 0
    result = json.loads(capsys.readouterr().out)
    assert isinstance(result, dict)
    return result


def free_run(engine: Path, prompt: str = PROMPT) -> list[int]:
    """The tokens, before any of them is called a tag; the model does not know its tokens' names."""
    write_vocabulary(engine, {})
    generation = generate(GenerateConfig(engine=engine, prompt=prompt, raw=True, max_new_tokens=NEW))
    list(generation)
    return generation.token_ids


def test_thinking_is_shown_hidden_or_alone(capsys: pytest.CaptureFixture[str], engine: Path) -> None:
    ids = free_run(engine)
    # A token that comes once, to open, and one behind it to close.
    once = [index for index, token in enumerate(ids) if ids.count(token) == 1]
    opened, closed = once[1], once[-2]
    assert opened + 1 < closed < NEW - 1, ids
    write_vocabulary(engine, {ids[opened]: "<think>", ids[closed]: "</think>"})
    words = [f"w{token}" for token in ids]
    thinking, after = " ".join(words[opened + 1 : closed]), " ".join(words[closed + 1 :])
    before = " ".join(words[:opened])

    shown, hidden, alone = (answer(capsys, engine, mode) for mode in ("show", "hide", "only"))
    assert shown["text"].split() == f"{before} <think> {thinking} </think> {after}".split()
    assert hidden["text"].split() == f"{before} {after}".split()
    assert alone["text"].split() == thinking.split()
    for result in (shown, hidden, alone):
        assert result["new_tokens"] == NEW and result["thinking_tokens"] == closed - opened + 1
        assert result["answer_tokens"] == NEW - result["thinking_tokens"]

    assert main(["generate", str(engine), "--prompt", PROMPT, "--max-new-tokens", str(NEW)]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == shown["text"]
    assert f"{shown['thinking_tokens']} thinking, {shown['answer_tokens']} answer" in printed.err


def test_a_template_that_opens_the_thinking(capsys: pytest.CaptureFixture[str], engine: Path) -> None:
    opening = 2
    ids = free_run(engine, f"{PROMPT} w{opening}")
    closed = next(index for index in range(4, NEW) if ids[index] not in [*ids[:index], opening, 7, 11, 13])
    template = "{{ messages[0].content }} <think>\n"
    write_vocabulary(engine, {opening: "<think>", ids[closed]: "</think>"}, template=template)
    alone, hidden = (answer(capsys, engine, mode) for mode in ("only", "hide"))
    assert alone["prompt_tokens"] == 4
    assert alone["text"].split() == [f"w{token}" for token in ids[:closed]]
    assert alone["thinking_tokens"] == hidden["thinking_tokens"] == closed + 1
    assert len(hidden["text"].split()) == NEW - closed - 1
