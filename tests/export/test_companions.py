"""What an export says of a checkpoint's tokenizer, and the tokenizers that it converts."""

from __future__ import annotations

import io
import json
import random
import shutil
from importlib import metadata
from pathlib import Path

import pytest
import sentencepiece
from tiny_checkpoints import VOCAB_SIZE, write_llama, write_tokenizer
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from r1trt.artifacts import ExportArtifact
from r1trt.errors import CheckpointError
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A Llama with the tiny byte-level tokenizer, whose ids fit its embedding."""
    directory = write_llama(tmp_path / "checkpoint")
    write_tokenizer(directory)
    return directory


def notes_of(checkpoint: Path) -> tuple[str, ...]:
    """The notes of an export, which is beside the checkpoint."""
    path = export_checkpoint(ExportConfig(checkpoint=checkpoint, output=checkpoint.parent / "export"))
    return tuple(ExportArtifact.read(path).manifest.notes)


def config_with(checkpoint: Path, **entries: object) -> None:
    path = checkpoint / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_a_tokenizer_that_fits_needs_no_note(checkpoint: Path) -> None:
    assert notes_of(checkpoint) == ()


def test_more_token_ids_than_rows(checkpoint: Path) -> None:
    config_with(checkpoint, added_tokens_decoder={str(VOCAB_SIZE): {"content": "<|tool|>", "special": True}})
    [note] = notes_of(checkpoint)
    assert f"{VOCAB_SIZE + 1} token ids" in note and f"{VOCAB_SIZE} rows" in note


def test_a_token_that_has_another_id(checkpoint: Path) -> None:
    config_with(checkpoint, added_tokens_decoder={"7": {"content": "<|im_end|>", "special": True}})
    [note] = notes_of(checkpoint)
    assert "'<|im_end|>' has id 1" in note and "7 in the files" in note


def test_templates(checkpoint: Path) -> None:
    (checkpoint / "additional_chat_templates").mkdir()
    (checkpoint / "additional_chat_templates" / "rag.jinja").write_text("x")
    assert notes_of(checkpoint) == ("Only the default chat template is used; there are also: rag.",)
    export = checkpoint.parent / "export"
    assert (export / "additional_chat_templates" / "rag.jinja").read_text() == "x"
    (checkpoint / "chat_template.jinja").unlink()
    [note] = notes_of(checkpoint)
    assert note.startswith("No chat template is called default") and note.endswith("there are: rag.")
    shutil.rmtree(checkpoint / "additional_chat_templates")
    [note] = notes_of(checkpoint)
    assert "no chat template" in note


def test_no_tokenizer(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    [note] = notes_of(checkpoint)
    assert note.startswith("The checkpoint has no tokenizer. ")
    assert not (checkpoint.parent / "export" / "tokenizer.json").exists()


def test_a_damaged_tokenizer_is_named_where_it_is(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        notes_of(checkpoint)
    assert caught.value.details["where"] == str(checkpoint / "tokenizer.json")
    assert not (checkpoint.parent / "export").exists()


def random_texts(count: int) -> list[str]:
    rng = random.Random(7)
    alphabet = ["abc XYZ.,!?", "你好世界", "🙂🦙", "éüçß", "  \n\t"]
    return [
        "".join(rng.choice(rng.choice(alphabet)) for _ in range(rng.randrange(1, 40))) for _ in range(count)
    ]


def assert_equals_transformers(checkpoint: Path) -> None:
    """Encoding and decoding, against the checkpoint's own tokenizer in transformers."""
    oracle = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer = tokenizer_from_dir(checkpoint.parent / "export")
    for text in random_texts(300):
        ids = oracle(text).input_ids
        assert tokenizer.encode(text) == ids, text
        assert tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)
        stream = tokenizer.stream()
        assert "".join(map(stream.push, ids)) + stream.finish() == tokenizer.decode(ids)
    assert tokenizer.special_tokens == oracle.special_tokens_map


def test_a_sentencepiece_model_is_converted(checkpoint: Path) -> None:
    """As Llama 2 has it: pairs of bytes, what has no piece in bytes, a space in front."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for line in (__doc__ or "").split(".") * 20]), model_writer=model,
        model_type="bpe", vocab_size=VOCAB_SIZE, byte_fallback=True, character_coverage=1.0,
        minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "chat_template.jinja").unlink()
    (checkpoint / "tokenizer.model").write_bytes(model.getvalue())
    (checkpoint / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"})
    )
    assert notes_of(checkpoint)[0] == (
        "tokenizer.json was made of the checkpoint's tokenizer.model by transformers "
        f"{metadata.version('transformers')}."
    )
    assert_equals_transformers(checkpoint)


def test_a_vocabulary_with_merges_is_converted(checkpoint: Path) -> None:
    Tokenizer.from_file(str(checkpoint / "tokenizer.json")).model.save(str(checkpoint))
    (checkpoint / "tokenizer.json").unlink()
    config_with(checkpoint, tokenizer_class="GPT2Tokenizer")
    assert "vocab.json and merges.txt" in notes_of(checkpoint)[0]
    assert_equals_transformers(checkpoint)


def test_what_transformers_does_not_read(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "tokenizer.model").write_bytes(b"a SentencePiece model")
    [note] = notes_of(checkpoint)
    assert "tokenizer.model, of which no tokenizer.json could be made (" in note and "save_pretrained" in note
    assert not (checkpoint.parent / "export" / "tokenizer.json").exists()


def test_without_transformers(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    (checkpoint / "tokenizer.json").rename(checkpoint / "tokenizer.model")
    [note] = notes_of(checkpoint)
    assert "(transformers is not installed)" in note
