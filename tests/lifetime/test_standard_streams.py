"""Commands whose standard streams are closed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_works_without_a_stream(closed: str, tmp_path: Path) -> None:
    shell = f'exec "$0" -m r1trt inspect "$1" --json {closed}'
    result = subprocess.run(
        ["/bin/sh", "-c", shell, sys.executable, str(tmp_path / "nothing")], capture_output=True, text=True
    )
    # Wrong usage, as with the streams; what could be said was said.
    assert result.returncode == 2
    assert ("UsageError" in result.stdout) == (">&-" not in closed.replace("2>&-", ""))
    assert "Traceback" not in result.stderr
