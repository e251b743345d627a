"""Some signals of the soak over real commands: right codes, quick ends, and nothing left."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from cpu_engines import tiny_engine
from tiny_checkpoints import write_llama

__all__ = ["tiny_engine"]

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
SIGNALS = 8


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
        return importlib.import_module("soak_signals")


@pytest.mark.parametrize("name", ["export", "build", "generate"])
def test_commands_end_with_their_signals(
    soak: ModuleType, name: str, tmp_path: Path, tiny_engine: Path
) -> None:
    arguments = {
        "export": ("export", str(write_llama(tmp_path / "checkpoint", tokenizer=True)), "-o", "OUTPUT"),
        "build": ("build", str(tiny_engine.parent / "export"), "--arch", "cpu", "-o", "OUTPUT"),
        "generate": ("generate", str(tiny_engine), "--prompt", "a b", "--max-new-tokens", "8"),
    }
    command = soak.Command(name=name, arguments=arguments[name])
    tally = soak.soak(command, SIGNALS, seed=1, cache=None)
    assert tally.signals == SIGNALS and tally.faults == []
