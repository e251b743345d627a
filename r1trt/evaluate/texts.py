"""Text to measure on, from files: apart from what was calibrated on, and long enough to say something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from r1trt.calibrate.text import require_tokens
from r1trt.errors import R1TrtError, UsageError
from r1trt.evaluate.windows import Window, windows_from_ids
from r1trt.runtime.prompts import documents_from_file, encoded_documents
from r1trt.tokenizer.text_tokenizer import TextTokenizer


def require_heldout(heldout: Path, *others: Path) -> None:
    """Refuse a held-out text that something else reads too. Raises UsageError."""
    if heldout.resolve() in {other.resolve() for other in others}:
        raise UsageError("Held-out text is what nothing else reads.", where=heldout, fix="name another file")


def encoded_text(path: Path, tokenizer: TextTokenizer, vocab_size: int) -> list[list[int]]:
    """Token ids of a file's documents. Raises R1TrtError where it cannot be used."""
    return encoded_documents(documents_from_file(path), tokenizer, vocab_size=vocab_size)


def windows_of_text(
    encoded: Sequence[Sequence[int]], *, size: int, tokens: int, text: str, window: int = 0
) -> list[Window]:
    """Windows of at most `size` tokens, at most `tokens` in all.

    Args:
        encoded: Each document's token ids.
        size: Most tokens of a window.
        tokens: Most tokens in all.
        text: Which text it is, as its option is called.
        window: Tokens of a window, where the text has to fill one.

    Raises:
        R1TrtError: The text is too short.
    """
    windows = windows_from_ids(encoded, size=size, max_tokens=tokens)
    require_tokens(sum(len(item.input_ids) for item in windows), text=text, window=window)
    return windows


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors of a text say which file it is from."""
    try:
        yield
    except R1TrtError as error:
        raise error.within(path) from error
