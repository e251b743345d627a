"""The text of a search: what scales and choices are measured on, and what nothing else reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from r1trt.calibrate.text import TokenChunks, require_tokens, token_chunks
from r1trt.data import CALIBRATION, HELDOUT
from r1trt.errors import R1TrtError, UsageError
from r1trt.evaluate.windows import Window, windows_from_ids
from r1trt.export.io import ExportedModel
from r1trt.runtime.prompts import documents_from_file, encoded_documents
from r1trt.search.config import SearchConfig
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The text of a search, in token ids.

    Attributes:
        screen: What every choice is measured on.
        search: What whole plans are measured on; may share text with calibration.
        final: What nothing else has read.
    """

    screen: TokenChunks
    search: list[Window]
    final: list[Window]


def texts_of_search(config: SearchConfig, export: ExportedModel) -> Texts:
    """Read the texts.

    Raises:
        R1TrtError: One cannot be used; names its file.
    """
    tokenizer, vocab_size = tokenizer_from_dir(export.artifact.path), export.config.vocab_size
    searched, heldout = config.calibration or CALIBRATION, config.heldout or HELDOUT
    if searched.resolve() == heldout.resolve():
        raise UsageError("Held-out text is what nothing else reads.", where=heldout, fix="name another file")
    text = _encoded(searched, tokenizer, vocab_size)
    with _named(searched):
        screen = token_chunks(text, length=config.window, tokens=config.screen_tokens)
        search = _windows(text, config.window, config.search_tokens, text="calibration")
    text = _encoded(heldout, tokenizer, vocab_size)
    with _named(heldout):
        final = _windows(text, config.window, config.final_tokens, text="heldout")
    return Texts(screen=screen, search=search, final=final)


def _encoded(path: Path, tokenizer: TextTokenizer, vocab_size: int) -> list[list[int]]:
    return encoded_documents(documents_from_file(path), tokenizer, vocab_size=vocab_size)


def _windows(encoded: list[list[int]], size: int, tokens: int, *, text: str) -> list[Window]:
    windows = windows_from_ids(encoded, size=size, max_tokens=tokens)
    require_tokens(sum(len(window.input_ids) for window in windows), text=text)
    return windows


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of a text say which file it is from."""
    try:
        yield
    except R1TrtError as error:
        raise error.within(path) from error
