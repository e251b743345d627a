"""Fixtures of all tests."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
MAKE_SMOLLM2 = REPOSITORY / "scripts" / "make_smollm2.py"


def run_script(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a script of this repository in its own process."""
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def smollm2_dir(pytestconfig: pytest.Config) -> Path:
    """A checkpoint of SmolLM2-135M-Instruct, made once for all workers and later runs; for reading only."""
    cache = pytestconfig.cache
    assert cache is not None
    base = cache.mkdir("smollm2")
    directory = base / hashlib.sha256(MAKE_SMOLLM2.read_bytes()).hexdigest()[:16]
    with (base / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            for stale in base.iterdir():
                if stale.is_dir():
                    shutil.rmtree(stale)
            made = run_script(MAKE_SMOLLM2, "-o", directory)
            assert made.returncode == 0, made.stderr
    return directory
