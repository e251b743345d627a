"""Every script that takes options explains them, and so imports what it needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts_under_test import REPOSITORY, run_script

SCRIPTS = [
    path for path in sorted((REPOSITORY / "scripts").glob("*.py")) if "ArgumentParser(" in path.read_text()
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_explains_itself(script: Path) -> None:
    result = run_script(script, "--help")
    assert result.returncode == 0, result.stderr
    assert "usage: " in result.stdout


def test_there_are_such_scripts() -> None:
    assert len(SCRIPTS) >= 6
