"""Measured damages on the disk, one a line as they come: a search that was cut off goes on where it was.

A choice's damage depends on the model, the text, its layers' types and scales, and the ONNX Runtime that
measures it, so that searches for other architectures share what they have in common.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

import numpy as np
import onnxruntime

from r1trt.cache import cache_directory
from r1trt.errors import ConfigError
from r1trt.files import PLAN_BYTES, text_of_file
from r1trt.search.candidates import Choice, Group
from r1trt.search.chain import Array
from r1trt.search.damage import Damage, Damages

_FOLDER = "search"
_SCHEMA = "2"
"""Another one where the arithmetic of a measured choice has changed."""


class DamageCache:
    """The damages of a model's choices on one text.

    Args:
        groups: What is chosen from, with scales.
        windows: The text's token ids.
        model: What tells the graph and the checkpoint's contents apart, as their hashes.
    """

    def __init__(self, groups: Sequence[Group], windows: Sequence[Array], model: Sequence[str]) -> None:
        digest = hashlib.sha256(f"{_SCHEMA} {onnxruntime.__version__}".encode())
        for text in model:
            digest.update(text.encode() + b"\0")
        for window in windows:
            digest.update(np.ascontiguousarray(window).tobytes() + b"\0")
        self._path = cache_directory() / _FOLDER / f"{digest.hexdigest()[:32]}.jsonl"
        self._marks = {
            (group.name, choice.kind): _mark(choice) for group in groups for choice in group.choices
        }

    def read(self) -> Damages:
        """What was measured before of these choices; a line that was cut off is not."""
        known = dict(self._lines())
        found: Damages = {}
        for (group, kind), mark in self._marks.items():
            if mark in known:
                found.setdefault(group, {})[kind] = known[mark]
        return found

    def add(self, group: str, kind: str, damage: Damage) -> None:
        """Keep one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = [self._marks[group, kind], *asdict(damage).values(), group, kind]
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _lines(self) -> Iterator[tuple[str, Damage]]:
        if not self._path.is_file():
            return
        text = text_of_file(self._path, limit=PLAN_BYTES, error=ConfigError, fix="remove it")
        for line in text.splitlines():
            try:
                mark, kl, error, _, _ = json.loads(line)
                yield str(mark), Damage(kl=float(kl), error=float(error))
            except (ValueError, TypeError):
                continue


def _mark(choice: Choice) -> str:
    """Types and scales of a choice's layers, whatever their words, as a hash."""
    layers = {name: asdict(replace(layer, reason="measured")) for name, layer in choice.layers.items()}
    return hashlib.sha256(json.dumps(layers, sort_keys=True).encode()).hexdigest()[:32]
