"""The CUDA compiler from PyPI, installed once beside the tests' other build results."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from harness.compile import DOWNLOADS

from r1trt.plugin_tools.toolchain import PYPI_PACKAGES


def pypi_nvcc() -> Path:
    """nvcc of the packages that r1trt names when there is no compiler."""
    name = hashlib.sha256("\0".join(PYPI_PACKAGES).encode()).hexdigest()[:16]
    target = DOWNLOADS / f"toolchain-{name}"
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    with (DOWNLOADS / "toolchain.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _install(target)
    [nvcc] = target.glob("nvidia/cu*/bin/nvcc")
    return nvcc


def _install(target: Path) -> None:
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
    result = subprocess.run(
        [*command, "--target", str(partial), *PYPI_PACKAGES], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    partial.rename(target)
