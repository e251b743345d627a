"""A system prompt that is read once, when a server starts, and stays in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from r1trt.errors import ConfigError
from r1trt.files import text_of_file
from r1trt.runtime.prefill import common_beginning
from r1trt.runtime.sampling import require_usable_logits
from r1trt.runtime.session import Session, last_token_logits
from r1trt.serving.call_sizes import piece_of_prompt
from r1trt.tokenizer.text_tokenizer import TextTokenizer

# Two messages of the user with nothing in common: what their prompts share comes from the system's alone.
_USERS = ("Hello", "?")
_FILE_BYTES = 1 << 20


def pinned_ids(text: str, tokenizer: TextTokenizer) -> list[int]:
    """Tokens that prompts begin with where a text is the system's message.

    Args:
        text: The message. Of a model without a chat template it is the beginning of prompts as it stands.
        tokenizer: The model's.

    Raises:
        ConfigError: The text is empty, or the chat template refuses it.
    """
    if not text.strip():
        raise ConfigError("The prompt to pin is empty.", fix="leave out --pin-prompt, or write a text")
    if tokenizer.is_raw:
        # The last token may become another one, with what follows.
        return tokenizer.encode(text)[:-1]
    system = {"role": "system", "content": text}
    prompts = [tokenizer.encode_chat([system, {"role": "user", "content": user}]) for user in _USERS]
    return prompts[0][: common_beginning(*prompts)]


def prompt_from_file(path: Path) -> str:
    """The text of a file, without the end of its last line.

    Raises:
        ConfigError: The file cannot be read, is no UTF-8, or is larger than 1 MiB.
    """
    fix = "write the system prompt into it"
    return text_of_file(path, limit=_FILE_BYTES, error=ConfigError, fix=fix).removesuffix("\n")


def read_pinned(session: Session, tokens: Sequence[int], chunk: int) -> None:
    """Reads tokens into the session's last row.

    Args:
        session: The model, with a KV cache.
        tokens: What to read.
        chunk: Most tokens of one call.

    Raises:
        ConfigError: There is no room for them, or the logits behind them are not finite numbers.
        SessionError: A call failed.
    """
    require_row(session.rows)
    require_room(len(tokens), session.limits.capacity or 0)
    past, logits_V = 0, np.zeros(0, np.float32)
    while past < len(tokens):
        size = piece_of_prompt(chunk, len(tokens) - past)
        count = np.array([size])
        ids = np.array([tokens[past : past + size]], np.int64)
        logits = session.step(ids, count, np.array([past]), session.rows - 1, only_last=True)
        past, logits_V = past + size, last_token_logits(logits, count)[0]
    require_usable_logits(logits_V)


def require_row(rows: int) -> None:
    """Raises ConfigError where a pinned prompt would leave no row of the cache for requests."""
    if rows < 2:
        raise ConfigError(
            "A pinned prompt takes a row of the KV cache, and requests need one, too.",
            found="1 row",
            expected="2 or more",
            fix="build with a larger --max-batch-size, or serve more --rows",
        )


def require_room(tokens: int, capacity: int) -> None:
    """Raises ConfigError where a pinned prompt of so many tokens fills a row of the cache."""
    if tokens >= capacity:
        raise ConfigError(
            "The pinned prompt leaves no room in the KV cache.",
            found=f"{tokens} tokens",
            expected=f"fewer than {capacity} (--max-seq-len)",
            fix="pin a shorter text",
        )
