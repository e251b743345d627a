"""Commands whose standard streams are closed, and streams that foreign code prints to."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from r1trt.lifetime.standard_streams import without_stream


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


def test_what_c_prints_is_kept_from_a_stream(capfd: pytest.CaptureFixture[str]) -> None:
    c_library = ctypes.CDLL(None)
    c_library.puts(b"before")
    with without_stream(1):
        c_library.puts(b"inside")
    c_library.puts(b"after")
    c_library.fflush(None)
    assert capfd.readouterr().out.split() == ["before", "after"]
