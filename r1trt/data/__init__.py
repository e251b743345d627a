"""Texts of the package, as files. Sources and licences: README.md."""

from __future__ import annotations

from pathlib import Path

CALIBRATION = Path(__file__).with_name("calibration.jsonl")
"""Calibration documents: prose, reference entries, manuals, code and conversations."""

HELDOUT = Path(__file__).with_name("heldout.txt")
"""One text for perplexities, which shares no document with the calibration documents."""
