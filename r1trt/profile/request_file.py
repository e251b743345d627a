"""The file that says what is profiled: lengths, or prompts, as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1trt.errors import ConfigError
from r1trt.files import TEXT_BYTES
from r1trt.profile.requests import DEFAULT_ANSWER, MOST_REQUESTS, MOST_TOKENS, RequestBatch
from r1trt.strict_json import json_object_from_file
from r1trt.text import listing

FORM = (
    '{"batch": 8, "prompt_tokens": 512, "new_tokens": 128}, or a list of lengths as "prompt_tokens", or '
    '"prompts": a list of texts or of {"messages": [...]}'
)
_KEYS = ("batch", "prompt_tokens", "prompts", "new_tokens")


@dataclass(frozen=True, kw_only=True)
class RequestFile:
    """What such a file says.

    Attributes:
        path: The file.
        lengths: Tokens of each prompt; empty where the prompts themselves are given.
        prompts: Each a text or an object with messages.
        new_tokens: Tokens of each answer.
    """

    path: Path
    lengths: tuple[int, ...]
    prompts: tuple[Any, ...]
    new_tokens: int

    def requests(self, tokenizer: Path | None, *, vocab_size: int) -> RequestBatch:
        """The batch.

        Args:
            tokenizer: Directory of the model's tokenizer; prompts need one.
            vocab_size: Rows of the model's embedding.

        Raises:
            R1TrtError: There is no tokenizer for the prompts, or one of them is refused.
        """
        if not self.prompts:
            return RequestBatch(prompt_tokens=self.lengths, new_tokens=self.new_tokens)
        encoded = _encoded(self, tokenizer, vocab_size)
        return RequestBatch(
            prompt_tokens=tuple(map(len, encoded)), new_tokens=self.new_tokens, token_ids=tuple(encoded)
        )


def request_file(path: Path) -> RequestFile:
    """Reads such a file.

    Raises:
        ConfigError: It is unreadable, not JSON, or of another form; lists all that is wrong with it.
    """
    content = json_object_from_file(path, limit=TEXT_BYTES, error=ConfigError)
    if problems := list(_problems(content)):
        raise ConfigError(
            "This file says nothing that can be profiled.",
            where=path,
            found=listing(problems),
            expected=FORM,
            fix="correct it, or leave --input out to profile one request of 512 tokens and 128 new ones",
        )
    lengths, prompts = content.get("prompt_tokens", []), content.get("prompts", [])
    if isinstance(lengths, int):
        lengths = [lengths] * content.get("batch", 1)
    return RequestFile(
        path=path,
        lengths=tuple(lengths),
        prompts=tuple(prompts),
        new_tokens=content.get("new_tokens", DEFAULT_ANSWER),
    )


def _problems(content: dict[str, Any]) -> Iterator[str]:
    unknown = sorted(content.keys() - set(_KEYS))
    if unknown:
        yield f"unknown keys {', '.join(unknown)}; there are {', '.join(_KEYS)}"
    if ("prompt_tokens" in content) == ("prompts" in content):
        both = "both of" if "prompts" in content else "neither of"
        yield f"{both} prompt_tokens and prompts; one of them is needed"
    yield from _size_problems("new_tokens", content.get("new_tokens", 1))
    yield from _size_problems("batch", content.get("batch", 1), MOST_REQUESTS)
    lengths = content.get("prompt_tokens", 1)
    given = lengths if isinstance(lengths, list) else [lengths]
    for length in given:
        yield from _size_problems("prompt_tokens", length)
    listed = content.get("prompts", lengths)
    if "prompts" in content and not isinstance(listed, list):
        yield f"prompts is {_shown(listed)}; a list of texts or of objects with messages"
    elif isinstance(listed, list):
        yield from _list_problems("prompts" if "prompts" in content else "prompt_tokens", listed, content)


def _list_problems(name: str, listed: list[Any], content: dict[str, Any]) -> Iterator[str]:
    if not 1 <= len(listed) <= MOST_REQUESTS:
        yield f"{name} has {len(listed)} entries; 1 to {MOST_REQUESTS}"
    elif content.get("batch", len(listed)) != len(listed):
        yield f"batch is {_shown(content['batch'])}, and {name} has {len(listed)} entries"
    for index, entry in enumerate(listed if name == "prompts" else []):
        if not isinstance(entry, str | dict) or not entry:
            yield f"prompts[{index}] is {_shown(entry)}; a text, or an object with messages"


def _size_problems(name: str, value: object, most: int = MOST_TOKENS) -> Iterator[str]:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        yield f"{name} is {_shown(value)}; a whole number from 1 to {most}"


def _shown(value: object) -> str:
    return repr(value)[:80]


def _encoded(file: RequestFile, tokenizer: Path | None, vocab_size: int) -> list[tuple[int, ...]]:
    from r1trt.runtime.prompts import document_from_entry, encoded_documents
    from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir

    if tokenizer is None:
        raise ConfigError(
            "Prompts need a tokenizer, and a model that is only a configuration has none.",
            where=file.path,
            found="prompts",
            fix='give lengths ("prompt_tokens"), or name a checkpoint, an export or a build',
        )
    documents = []
    for index, prompt in enumerate(file.prompts):
        entry = {"prompt": prompt} if isinstance(prompt, str) else prompt
        document = document_from_entry(entry)
        if document is None:
            raise ConfigError(
                "A prompt is of another form.",
                where=f"{file.path}, prompts[{index}]",
                found=sorted(entry),
                expected=FORM,
            )
        documents.append(document)
    return [
        tuple(ids)
        for ids in encoded_documents(documents, tokenizer_from_dir(tokenizer), vocab_size=vocab_size)
    ]
