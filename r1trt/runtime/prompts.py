"""Documents to read with a model: texts and conversations from files, and their token ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1trt.errors import ConfigError
from r1trt.files import TEXT_BYTES, text_of_file
from r1trt.tokenizer.chat_template import Message
from r1trt.tokenizer.messages import messages_from_json
from r1trt.tokenizer.text_tokenizer import TextTokenizer

FORMS = '{"text": "..."}, {"prompt": "..."} or {"messages": [{"role": "...", "content": "..."}, ...]} a line'


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text, or one conversation.

    Attributes:
        text: Text to be read as it is.
        messages: A conversation instead, for the model's chat template.
    """

    text: str = ""
    messages: tuple[Message, ...] = ()


def documents_from_file(path: Path) -> list[Document]:
    """Read documents: a `.txt` is one, a `.jsonl` has a "text", a "prompt" or "messages" a line.

    Args:
        path: UTF-8 file. Blank lines of a `.jsonl` are skipped.

    Raises:
        ConfigError: The file cannot be read, is empty or of another form, or one of its lines is; names the
            file and the line.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise ConfigError(
            "A file of documents is of another form.", where=path, expected=f".txt, or .jsonl with {FORMS}"
        )
    content = text_of_file(path, limit=TEXT_BYTES, error=ConfigError, fix="name a file of UTF-8 text")
    if path.suffix == ".txt":
        documents = [Document(text=content)] if content.strip() else []
    else:
        # Not splitlines(): U+2028 and its like may stand inside a JSON string.
        lines = [(number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]
        documents = [_document_from_line(line, f"{path}, line {number}") for number, line in lines]
    if not documents:
        raise ConfigError("The file of documents is empty.", where=path)
    return documents


def _document_from_line(line: str, where: str) -> Document:
    try:
        entry = json.loads(line)
        # A JSON string may spell half of a surrogate pair, which is not a character and has no UTF-8.
        json.dumps(entry, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ConfigError("A line holds text that is not Unicode.", where=where, found=error) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError("A line is not JSON.", where=where, found=error, expected=FORMS) from error
    try:
        document = document_from_entry(entry)
    except ConfigError as error:
        raise error.within(where) from error
    if document is None:
        found = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise ConfigError("A line is of another form.", where=where, found=found, expected=FORMS)
    return document


def document_from_entry(entry: Any) -> Document | None:
    """A document of one of `FORMS`; None for anything else.

    Raises:
        ConfigError: Its messages are of another form.
    """
    if not isinstance(entry, dict):
        return None
    if isinstance(entry.get("text"), str):
        return Document(text=entry["text"])
    if isinstance(entry.get("prompt"), str):
        return Document(messages=({"role": "user", "content": entry["prompt"]},))
    if "messages" in entry:
        return Document(messages=messages_from_json(entry["messages"]))
    return None


def token_ids(document: Document, tokenizer: TextTokenizer) -> list[int]:
    """A document's token ids, with the tokenizer's own chat template.

    A conversation that ends with the user's message opens the assistant's turn. Without a template, a
    conversation is its messages' contents, one below the other.

    Raises:
        ConfigError: The template refuses the messages.
    """
    if not document.messages:
        return tokenizer.encode(document.text)
    if tokenizer.chat_template is None:
        return tokenizer.encode("\n".join(message["content"] or "" for message in document.messages))
    is_answered = document.messages[-1]["role"] == "assistant"
    return tokenizer.encode_chat(document.messages, add_generation_prompt=not is_answered)


def encoded_documents(
    documents: Sequence[Document], tokenizer: TextTokenizer, *, vocab_size: int
) -> list[list[int]]:
    """Token ids of documents, all of them in the model's vocabulary.

    Args:
        documents: Texts and conversations.
        tokenizer: The model's.
        vocab_size: Rows of the model's embedding.

    Raises:
        ConfigError: The tokenizer gives ids that the model does not have.
    """
    encoded = [token_ids(document, tokenizer) for document in documents]
    largest = max((max(ids, default=0) for ids in encoded), default=0)
    if largest >= vocab_size:
        raise ConfigError(
            "The tokenizer gives token ids that the model's vocabulary does not have.",
            found=f"token id {largest}",
            expected=f"0 to {vocab_size - 1}",
            fix="put the model's own tokenizer files beside it",
        )
    return encoded
