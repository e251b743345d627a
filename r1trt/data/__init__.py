"""Texts of the package: calibration, held-out text, prompts. Sources and licences: README.md."""

from __future__ import annotations

import json
from importlib.resources import files

_SEPARATOR = "\n\f\n"


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def calibration_text() -> list[str]:
    """Returns the calibration documents: prose, reference entries, manuals, code and ChatML conversations."""
    return _read("calibration.txt").removesuffix("\n").split(_SEPARATOR)


def heldout_text() -> str:
    """Returns one text for perplexities, which shares no document with the calibration documents."""
    return _read("heldout.txt")


def validation_prompts() -> list[str]:
    """Returns 20 short user prompts, without any chat template."""
    return [json.loads(line)["prompt"] for line in _read("prompts.jsonl").splitlines()]
