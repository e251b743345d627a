"""Conversations: what the cache holds is not read again, and the answers are those of reading everything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import write_deepseek, write_llama, write_r1_asa, write_tokenizer

from r1trt.errors import ConfigError
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.runtime.answering import AnsweringConfig
from r1trt.runtime.chat import Chat
from r1trt.runtime.generate import GenerateConfig, generate
from r1trt.runtime.session import SessionError

CAPACITY, NEW = 192, 12
QUESTIONS = ("Every function writes", "And then?", "Why is the sky so blue?")
WRITERS = {"llama": write_llama, "r1_asa": write_r1_asa, "deepseek": write_deepseek}


def export(directory: Path, family: str) -> Path:
    checkpoint = WRITERS[family](directory / "checkpoint", seed=4)
    write_tokenizer(checkpoint)
    return export_checkpoint(
        ExportConfig(checkpoint=checkpoint, output=directory / "export", max_seq_len=CAPACITY)
    )


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("chat"), "llama")


@pytest.fixture
def chat(engine: Path) -> Iterator[Chat]:
    with closing(Chat(config(engine))) as conversation:
        yield conversation


def config(engine: Path, **options: Any) -> AnsweringConfig:
    return AnsweringConfig(engine=engine, **{"max_new_tokens": NEW, "temperature": 0.0, **options})


def whole(engine: Path, messages: list[dict[str, Any]], **options: Any) -> str:
    """The answer to a conversation that is read from its beginning."""
    settings = {"max_new_tokens": NEW, "temperature": 0.0, **options}
    return "".join(generate(GenerateConfig(engine=engine, messages=tuple(messages), **settings)))


@pytest.mark.parametrize("family", WRITERS)
def test_each_answer_is_that_of_the_whole_conversation(tmp_path: Path, family: str) -> None:
    engine = export(tmp_path, family)
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be short."}]
    with closing(Chat(config(engine, system="Be short."))) as conversation:
        for turn, question in enumerate(QUESTIONS):
            messages.append({"role": "user", "content": question})
            answer = "".join(conversation.answer(question))
            assert answer == whole(engine, messages)
            messages.append({"role": "assistant", "content": answer})
            statistics = conversation.statistics
            assert statistics is not None
            assert (statistics.held_tokens > 0) == (turn > 0)
            assert statistics.held_tokens < statistics.prompt_tokens


def test_reset_forgets_all_but_the_system_message(engine: Path) -> None:
    with closing(Chat(config(engine, system="Be short."))) as conversation:
        first = "".join(conversation.answer(QUESTIONS[0]))
        "".join(conversation.answer(QUESTIONS[1]))
        conversation.reset()
        assert conversation.messages == [{"role": "system", "content": "Be short."}]
        assert "".join(conversation.answer(QUESTIONS[0])) == first


def test_a_message_that_does_not_fit_leaves_the_conversation_as_it_was(chat: Chat, engine: Path) -> None:
    first = "".join(chat.answer(QUESTIONS[0]))
    before = list(chat.messages)
    with pytest.raises(SessionError, match="longer than the engine's KV cache"):
        "".join(chat.answer("word " * 400))
    assert chat.messages == before
    asked = [*before, {"role": "user", "content": QUESTIONS[1]}]
    assert "".join(chat.answer(QUESTIONS[1])) == whole(engine, asked)
    assert before[-1] == {"role": "assistant", "content": first}


def test_an_answer_that_is_left_in_the_middle_is_no_part_of_it(chat: Chat, engine: Path) -> None:
    next(chat.answer(QUESTIONS[0]))
    assert chat.messages == []
    assert "".join(chat.answer(QUESTIONS[1])) == whole(engine, [{"role": "user", "content": QUESTIONS[1]}])


def test_a_stop_text_is_no_part_of_what_was_said(engine: Path) -> None:
    free = whole(engine, [{"role": "user", "content": QUESTIONS[0]}])
    stop = free[4:6]
    with closing(Chat(config(engine, stop=(stop,)))) as conversation:
        answer = "".join(conversation.answer(QUESTIONS[0]))
        assert answer == free[: free.index(stop)]
        assert conversation.messages[-1] == {"role": "assistant", "content": answer}


def test_a_model_without_a_template_holds_no_conversation(tmp_path: Path) -> None:
    raw = export(tmp_path, "llama")
    (raw / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="no chat template"):
        Chat(config(raw))


def test_the_models_own_sampling_is_used(tmp_path: Path) -> None:
    engine = export(tmp_path, "llama")
    (engine / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6, "min_p": 0.1}')
    with closing(Chat(config(engine, temperature=None, seed=3))) as conversation:
        assert (conversation.sampling.temperature, conversation.sampling.seed) == (0.6, 3)
        assert conversation.notes == ("generation_config.json asks for min_p 0.1, which is not done here.",)
