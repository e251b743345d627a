"""`r1trt serve` under signals, while it starts and while it serves."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from r1trt.cache import cache_directory

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SIGNALS = 6


@pytest.mark.usefixtures("environment")
def test_the_command_ends_with_its_signals(tiny_engine: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
        soak = importlib.import_module("soak_signals")
    command = soak.Command(name="serve", arguments=("serve", str(tiny_engine)), serves=True)
    tally = soak.soak(command, SIGNALS, seed=1, cache=cache_directory())
    assert tally.signals == SIGNALS and tally.faults == []
