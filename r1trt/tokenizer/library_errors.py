"""What the tokenizers library raises, made into errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from r1trt.errors import CheckpointError

_PANIC = "PanicException"  # no Exception, so that nothing but its name tells it


@contextmanager
def tokenizer_errors(message: str, where: Path | None = None) -> Iterator[None]:
    """Makes CheckpointError of what the tokenizers library raises: bare Exception, and Rust's panics."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        raise CheckpointError(
            message, where=where, found=error, fix="take the tokenizer.json of the model's publisher"
        ) from error
