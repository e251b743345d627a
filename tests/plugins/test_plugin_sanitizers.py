"""The plugins' tests again, with plugins and kernels under the address and undefined behaviour sanitizers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness.compile import SANITIZER_VARIABLE

from r1trt.plugin_tools.toolchain import toolchain_from_machine

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
MODULES = ("test_plugin_creators.py", "test_plugin_methods.py", "test_plugin_enqueue.py")


def runtime(name: str) -> str:
    """A library of the compiler's, by its path."""
    command = [str(toolchain_from_machine().cxx), f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_no_memory_error_and_no_undefined_behaviour() -> None:
    # Python is not compiled for it: the sanitizer comes first, then the library whose exceptions it follows.
    environment = {
        **os.environ,
        SANITIZER_VARIABLE: "asan",
        "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "not official"]
    child = subprocess.run(
        [*command, *(str(TESTS / name) for name in MODULES)],
        cwd=TESTS.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stdout[-4000:] + child.stderr[-4000:]
    assert "passed" in child.stdout
