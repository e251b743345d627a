"""The text that stages are compared on, cut into windows of tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from r1trt.errors import ConfigError
from r1trt.runtime.tokenizer import TextTokenizer


@dataclass(frozen=True, kw_only=True)
class Window:
    """One piece of text, read from an empty cache.

    Attributes:
        input_ids: Token ids [T].
        targets: The token that follows each [T]; -1 where the text ends.
    """

    input_ids: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text.

    Attributes:
        text: Text to be read as it is.
        messages: A conversation instead, for the chat template.
    """

    text: str = ""
    messages: tuple[dict[str, Any], ...] = ()


def documents_from_file(path: Path) -> list[Document]:
    """Read prompts: a `.txt` is one text; a `.jsonl` has a "text", "prompt" or "messages" a line.

    Raises:
        ConfigError: The file cannot be read, is empty, or a line of it is something else.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("The prompts cannot be read.", where=path, found=error) from error
    if path.suffix != ".jsonl":
        documents = [Document(text=content)] if content.strip() else []
    else:
        lines = [(number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]
        documents = [_document_from_line(line, f"{path}, line {number}") for number, line in lines]
    if not documents:
        raise ConfigError("The prompts are empty.", where=path)
    return documents


def _document_from_line(line: str, where: str) -> Document:
    expected = '{"text": "..."}, {"prompt": "..."} or {"messages": [{"role": "...", "content": "..."}]}'
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError("A line is not JSON.", where=where, found=error, expected=expected) from error
    if isinstance(entry, dict):
        if isinstance(entry.get("text"), str):
            return Document(text=entry["text"])
        if isinstance(entry.get("prompt"), str):
            return Document(messages=({"role": "user", "content": entry["prompt"]},))
        messages = entry.get("messages")
        if isinstance(messages, list) and messages and all(isinstance(item, dict) for item in messages):
            return Document(messages=tuple(messages))
    raise ConfigError("A line of the prompts is of another form.", where=where, expected=expected)


def default_documents() -> list[Document]:
    """The package's held-out text: nothing that calibration has seen."""
    from r1trt.data import heldout_text

    return [Document(text=heldout_text())]


def token_ids(document: Document, tokenizer: TextTokenizer) -> list[int]:
    """A document's token ids; without a chat template, its messages' contents one below the other."""
    if not document.messages:
        return tokenizer.encode(document.text)
    if tokenizer.chat_template is not None:
        return tokenizer.encode_chat(document.messages)
    return tokenizer.encode("\n".join(str(message.get("content", "")) for message in document.messages))


def windows_from_documents(
    documents: list[Document], tokenizer: TextTokenizer, *, size: int, max_tokens: int
) -> list[Window]:
    """Cut documents into windows of at most `size` tokens, about `max_tokens` in all.

    Where there is more text than that, short documents are taken first: prompts are not crowded out by one
    long text.

    Raises:
        ConfigError: No document has two tokens.
    """
    encoded = [token_ids(document, tokenizer) for document in documents]
    windows: list[Window] = []
    left = max_tokens
    for ids in sorted(encoded, key=len):
        taken = ids[: max(left, 0)]
        if len(taken) > 1:
            windows += _windows_from_ids(taken, size)
            left -= len(taken)
    if not windows:
        raise ConfigError("The text is too short to compare on.", expected="at least two tokens")
    return windows


def _windows_from_ids(ids: list[int], size: int) -> Iterator[Window]:
    following = [*ids[1:], -1]
    for start in range(0, len(ids), size):
        window = slice(start, start + size)
        yield Window(input_ids=np.array(ids[window], np.int64), targets=np.array(following[window], np.int64))
