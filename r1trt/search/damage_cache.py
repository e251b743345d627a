"""Measured damages on the disk, one a line as they come: a search that was cut off goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from r1trt.cache import cache_directory
from r1trt.errors import ConfigError
from r1trt.files import PLAN_BYTES, text_of_file
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.plan_file import yaml_from_plan
from r1trt.search.candidates import Group, plan_of_choices
from r1trt.search.chain import Array
from r1trt.search.damage import Damage, Damages

_FOLDER = "search"
_SCHEMA = "1"
"""Another one where the arithmetic of a measured choice has changed."""


class DamageCache:
    """The damages of one search's choices on one text.

    Args:
        base: Plan of the layers that are not chosen.
        groups: What is chosen from, with scales.
        windows: The text's token ids.
        weights: What tells the checkpoint's contents apart, as its files' hashes.
    """

    def __init__(
        self, base: PrecisionPlan, groups: Sequence[Group], windows: Sequence[Array], weights: Sequence[str]
    ) -> None:
        digest = hashlib.sha256(_SCHEMA.encode())
        for kind in dict.fromkeys(choice.kind for group in groups for choice in group.choices):
            chosen = [c for group in groups for c in group.choices if c.kind == kind]
            digest.update(f"{kind}\0{yaml_from_plan(_numbers(plan_of_choices(base, chosen)))}".encode())
        for text in weights:
            digest.update(text.encode() + b"\0")
        for window in windows:
            digest.update(np.ascontiguousarray(window).tobytes())
        self._path = cache_directory() / _FOLDER / f"{digest.hexdigest()[:32]}.jsonl"

    def read(self) -> Damages:
        """What was measured before; a line that was cut off is not."""
        found: Damages = {}
        if not self._path.is_file():
            return found
        for line in text_of_file(
            self._path, limit=PLAN_BYTES, error=ConfigError, fix="remove it"
        ).splitlines():
            try:
                group, kind, kl, error = json.loads(line)
                found.setdefault(str(group), {})[str(kind)] = Damage(kl=float(kl), error=float(error))
            except (ValueError, TypeError):
                continue
        return found

    def add(self, group: str, kind: str, damage: Damage) -> None:
        """Keep one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([group, kind, *asdict(damage).values()]) + "\n")


def _numbers(plan: PrecisionPlan) -> PrecisionPlan:
    """What damages depend on: types and scales, not the architecture, the builder or words."""
    layers = {name: replace(layer, reason="measured") for name, layer in plan.layers.items()}
    return replace(plan, layers=layers, arch="", builder={}, calibration={})
