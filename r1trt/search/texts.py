"""The text of a search: what scales and choices are measured on, and what nothing else reads."""

from __future__ import annotations

from dataclasses import dataclass

from r1trt.calibrate.text import TokenChunks, token_chunks
from r1trt.data import CALIBRATION, HELDOUT
from r1trt.evaluate.texts import encoded_text, named, require_heldout, windows_of_text
from r1trt.evaluate.windows import Window
from r1trt.export.io import ExportedModel
from r1trt.search.config import SearchConfig
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir


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
    require_heldout(heldout, searched)
    text = encoded_text(searched, tokenizer, vocab_size)
    with named(searched):
        screen = token_chunks(text, length=config.window, tokens=config.screen_tokens)
        search = windows_of_text(text, size=config.window, tokens=config.search_tokens, text="calibration")
    text = encoded_text(heldout, tokenizer, vocab_size)
    with named(heldout):
        final = windows_of_text(text, size=config.window, tokens=config.final_tokens, text="heldout")
    return Texts(screen=screen, search=search, final=final)
