"""Tokens that the files beside tokenizer.json name: added to it as transformers adds them.

`added_tokens_decoder` in tokenizer_config.json lists tokens by id. Only where it is missing,
special_tokens_map.json and added_tokens.json count. Tokens with a name (`bos_token`), and those in
`extra_special_tokens`, are special and exist, whether a file lists them or not.

Source: transformers 5, PreTrainedTokenizerBase._from_pretrained and _post_init, TokenizersBackend.__init__.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from r1trt.errors import CheckpointError

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, kw_only=True)
class AddedTokens:
    """What the files name.

    Attributes:
        by_id: Tokens by the ids that they are meant to have.
        by_name: Tokens by name, for instance `bos_token`.
        extra: Further special tokens.
    """

    by_id: Mapping[int, AddedToken]
    by_name: Mapping[str, AddedToken]
    extra: tuple[AddedToken, ...]

    @property
    def texts_by_name(self) -> dict[str, str]:
        """Contents by name, as chat templates see them."""
        return {name: token.content for name, token in self.by_name.items()}

    def add_to(self, tokenizer: Tokenizer) -> None:
        """Adds what a tokenizer does not have, in the order of ids, and makes special what is meant to be."""
        there = tokenizer.get_added_tokens_decoder().values()
        same, known = {repr(token) for token in there}, {token.content for token in there}
        missing = [token for _, token in sorted(self.by_id.items()) if repr(token) not in same]
        known |= {token.content for token in missing}
        for token in (*self.by_name.values(), *self.extra):
            if token.content not in known:
                missing.append(token)
                known.add(token.content)
        named = {token.content for token in self.by_name.values()}
        for token in missing:
            token.special = token.special or token.content in named
        tokenizer.add_tokens(missing)
        tokenizer.add_special_tokens([*self.by_name.values(), *self.extra])

    def other_ids(self, tokenizer: Tokenizer) -> dict[str, tuple[int, int | None]]:
        """Tokens that have other ids in a tokenizer than the files say: the id meant, and the one it has."""
        ids = {
            token.content: (index, tokenizer.token_to_id(token.content))
            for index, token in self.by_id.items()
        }
        return {content: (meant, given) for content, (meant, given) in ids.items() if meant != given}


def added_tokens_from_documents(
    config: Mapping[str, Any],
    tokens_map: Mapping[str, Any],
    added: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    where: Path,
) -> AddedTokens:
    """What the files name.

    Args:
        config: tokenizer_config.json.
        tokens_map: special_tokens_map.json.
        added: added_tokens.json: contents to ids.
        tokenizer: As tokenizer.json has it.
        where: File that messages name.

    Raises:
        CheckpointError: A token has no content, or no id.
    """
    listed = config.get("added_tokens_decoder")
    if isinstance(listed, dict):
        by_id = {_id(index, where): _token(token, where) for index, token in listed.items()}
        values = dict(config)
    else:
        values = {**config, **tokens_map}
        special = {_content(values.get(name)) for name in NAMES} | {_content(t) for t in _extra(values)}
        by_id = {
            _id(index, where): AddedToken(
                content, normalized=content not in special, special=content in special
            )
            for content, index in added.items()
        } | tokenizer.get_added_tokens_decoder()
    tokens = {token.content: token for token in by_id.values()}
    extra = _extra(values)
    named = {name: value for name, value in values.items() if _is_named(name, value)}
    if isinstance(extra, dict):
        named, extra = {**named, **extra}, ()
    return AddedTokens(
        by_id=by_id,
        by_name={name: _of(value, tokens, where) for name, value in named.items() if _content(value)},
        extra=tuple(_of(value, {}, where) for value in extra),
    )


def _is_named(name: str, value: Any) -> bool:
    return name in NAMES or (name.endswith("_token") and isinstance(value, str))


def _extra(values: Mapping[str, Any]) -> Any:
    found = values.get("extra_special_tokens") or values.get("additional_special_tokens") or ()
    return found if isinstance(found, (dict, list)) else ()


def _content(value: Any) -> str | None:
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _of(value: Any, tokens: Mapping[str, AddedToken], where: Path) -> AddedToken:
    """A special token that a file gives as its content or with flags; those of a listed one win."""
    content = _content(value)
    if content is not None and content in tokens:
        return tokens[content]
    return AddedToken(content, special=True) if isinstance(value, str) else _token(value, where)


def _token(value: Any, where: Path) -> AddedToken:
    content = _content(value)
    if not content:
        raise CheckpointError(
            "A token has no content.",
            where=where,
            found=repr(value)[:200],
            expected='{"content": "<|token|>", "special": true, ...}',
        )
    flags = value if isinstance(value, dict) else {}
    return AddedToken(content, **{name: bool(flags[name]) for name in _FLAGS if name in flags})


def _id(value: Any, where: Path) -> int:
    try:
        index = int(value)
    except (TypeError, ValueError, OverflowError):
        index = -1
    if not 0 <= index < 1 << 31:
        raise CheckpointError(
            "A token has no id.", where=where, found=repr(value)[:200], expected="0 or more"
        )
    return index
