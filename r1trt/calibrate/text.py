"""Calibration text: read from a file or the package, and cut into token sequences of one length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r1trt.errors import PlanError

MIN_TOKENS = 256
_FORMS = (
    '.txt (plain text), or .jsonl with {"text": ...} or {"messages": [{"role": ..., "content": ...}]} a line'
)

TokenChunks = list[NDArray[np.int64]]


def documents_from_file(path: Path) -> list[str]:
    """Read calibration documents.

    Args:
        path: `.txt` is one document; `.jsonl` holds one a line.

    Returns:
        Documents; conversations are written out in ChatML's form.

    Raises:
        PlanError: Another form; names the file and the line.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise PlanError("A calibration file has an unknown form.", where=path, expected=_FORMS)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(
            "A calibration file cannot be read.", where=path, found=error, expected="UTF-8 text"
        ) from error
    if path.suffix == ".txt":
        return [text]
    lines = enumerate(text.split("\n"), start=1)  # U+2028 and its like may stand in JSON
    return [_document(line, f"{path}, line {number}") for number, line in lines if line.strip()]


def _document(line: str, where: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PlanError(
            "A calibration line is not JSON.", where=where, found=error, expected=_FORMS
        ) from error
    if isinstance(record, dict) and isinstance(record.get("text"), str):
        return str(record["text"])
    if isinstance(record, dict) and isinstance(record.get("messages"), list) and record["messages"]:
        return "".join(_turn(message, where) for message in record["messages"])
    found = sorted(record) if isinstance(record, dict) else type(record).__name__
    raise PlanError(
        "A calibration line has neither text nor messages.", where=where, found=found, expected=_FORMS
    )


def _turn(message: Any, where: str) -> str:
    if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
        raise PlanError("A message lacks role or content.", where=where, found=message, expected=_FORMS)
    return f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"


def token_chunks(documents: Sequence[str], tokenizer_file: Path, *, length: int, tokens: int) -> TokenChunks:
    """Cut documents into chunks of `length` tokens, taken from all documents in turn.

    Args:
        documents: Texts.
        tokenizer_file: `tokenizer.json`.
        length: Tokens of a chunk; the rest of a document is left out unless it is at least half a chunk.
        tokens: Tokens wanted in all.

    Returns:
        int64 [n] arrays, n <= length.

    Raises:
        PlanError: There is no tokenizer, or the text is too short to measure ranges on.
    """
    ids = [np.asarray(item, np.int64) for item in _encoded(documents, tokenizer_file)]
    pieces = [[item[start : start + length] for start in range(0, len(item), length)] for item in ids]
    usable = [[chunk for chunk in chunks if 2 * len(chunk) >= length] for chunks in pieces]
    if not any(usable):  # short documents only: join them
        joined = np.concatenate([np.zeros(0, np.int64), *ids])
        usable = [[joined[start : start + length] for start in range(0, len(joined), length)]]
    depth = max(len(chunks) for chunks in usable)
    in_turn = [chunks[index] for index in range(depth) for chunks in usable if index < len(chunks)]
    taken: TokenChunks = []
    for chunk in in_turn:
        if sum(map(len, taken)) >= tokens:
            break
        taken.append(chunk)
    found = sum(map(len, taken))
    if found < MIN_TOKENS:
        raise PlanError(
            "The calibration text is too short.",
            found=f"{found} tokens",
            expected=f"at least {MIN_TOKENS}",
            fix="pass a longer text with --calibration",
        )
    return taken


def _encoded(documents: Sequence[str], tokenizer_file: Path) -> list[list[int]]:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # the library raises bare Exception
        raise PlanError(
            "The tokenizer cannot be read.",
            where=tokenizer_file,
            found=error,
            fix="calibration needs the checkpoint's tokenizer.json",
        ) from error
    for document in documents:
        try:
            document.encode()
        except UnicodeEncodeError as error:
            raise PlanError("The calibration text is not Unicode.", found=error, expected=_FORMS) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [list(tokenizer.encode(document).ids) for document in documents]
