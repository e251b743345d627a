"""Which tokenizers run in this process: those whose parts bound the time and the memory that a text takes.

Byte-pair encoding by published patterns is linear in the text. A pattern of a file's own may take time that
grows exponentially, replacements make a text longer one after the other, and some models are quadratic.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tokenizers

MOST_GROWTH = 6.0
"""By how much a text may become longer on its way to tokens, or from them."""

_WAYS = (("normalizer", "pre_tokenizer", "post_processor"), ("decoder",))
_MOST_STATE_BYTES = 1 << 18

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CHINESE = "\N{CJK UNIFIED IDEOGRAPH-4E00}-\N{CJK UNIFIED IDEOGRAPH-9FA5}"
# Of GPT-2, Llama 3, Qwen2 and DeepSeek-V3: no repetition inside of a repetition.
_PATTERNS = frozenset(
    (
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        _WORDS + r"|\p{N}{1,3}|" + _REST,
        _WORDS + r"|\p{N}|" + _REST,
        r"\p{N}{1,3}",
        f"[{_CHINESE}\u3040-\u309f\u30a0-\u30ff]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    )
)
# How much longer each makes a text at most, counted as bytes in UTF-8.
_GROWTH: Mapping[str, float] = {
    "NFC": 3.0,
    "NFD": 3.0,
    "NFKC": 11.0,
    "NFKD": 11.0,
    "ByteLevel": 2.0,
    "Lowercase": 1.5,
    "Metaspace": 3.0,
}
# Those that do not, or by a few tokens.
_STEADY = frozenset(
    (
        *("Strip", "StripAccents", "Prepend", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit"),
        *("BertPreTokenizer", "TemplateProcessing", "BertProcessing", "RobertaProcessing"),
        *("ByteFallback", "Fuse"),
    )
)
_SEQUENCES = ("normalizers", "pretokenizers", "processors", "decoders")


def is_bounded(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether a tokenizer takes time and memory in proportion to its text, whoever wrote it.

    Args:
        tokenizer: As the library read it.
    """
    if type(tokenizer.model).__name__ != "BPE":
        return False
    return all(_growth_of([getattr(tokenizer, name) for name in way]) <= MOST_GROWTH for way in _WAYS)


def _growth_of(parts: Sequence[Any]) -> float:
    texts = [part.__getstate__() for part in parts if part is not None]
    if sum(map(len, texts)) > _MOST_STATE_BYTES:
        return math.inf
    return math.prod(_growth(step) for text in texts for step in _steps(json.loads(text)))


def _steps(part: Any) -> Iterator[Mapping[str, Any]]:
    """The parts of a part, sequences in sequences unfolded."""
    if part.get("type") != "Sequence":
        yield part
        return
    for key in _SEQUENCES:
        for inner in part.get(key, ()):
            yield from _steps(inner)


def _growth(step: Mapping[str, Any]) -> float:
    """By how much a step makes a text longer; infinite where nothing bounds that, or its time."""
    kind = str(step.get("type"))
    if kind == "Split":
        pattern = step["pattern"]
        # Some files spell line ends as characters, some as escapes.
        regex = str(pattern.get("Regex")).replace("\r", r"\r").replace("\n", r"\n")
        return 1.0 if "String" in pattern or regex in _PATTERNS else math.inf
    if kind == "Replace":
        old, new = step["pattern"].get("String"), step["content"]
        return max(1.0, len(new.encode()) / len(old.encode())) if old else math.inf
    return 1.0 if kind in _STEADY else _GROWTH.get(kind, math.inf)
