"""Fixtures of all tests."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import signal
from pathlib import Path

import pytest
from scripts_under_test import MAKE_SMOLLM2, run_script

# A shell that starts this in the background has it ignore Ctrl-C, and every process that a test starts too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-cases",
        action="store_true",
        help="run every case of what takes minutes: kernels under sanitizers, drafts of a real model",
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
