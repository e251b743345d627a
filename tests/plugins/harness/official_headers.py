"""NVIDIA's TensorRT headers, from a wheel that carries them; for comparison only."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

from harness.compile import DOWNLOADS

REQUIREMENT = "kernel-lens==2.0.1"
WHEEL = "kernel_lens-2.0.1-py3-none-any.whl"
WHEEL_SHA256 = "07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0"
FOLDER = "kernel_lens/include/tensorrt"
VERSION = (10, 14)


def official_headers() -> Path:
    """The folder of the headers of TensorRT 10.14; downloaded once, and only accepted with the known hash."""
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    with (DOWNLOADS / "headers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wheel = DOWNLOADS / WHEEL
        if not wheel.exists():
            _download()
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        assert found == WHEEL_SHA256, f"{wheel}: sha256 {found}, {WHEEL_SHA256} expected"
        target = DOWNLOADS / f"headers-{WHEEL_SHA256[:16]}"
        if not target.exists():
            _extract(wheel, target)
    return target / FOLDER


def _download() -> None:
    requirements = DOWNLOADS / "headers.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "-r", str(requirements), "-d", str(DOWNLOADS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def _extract(wheel: Path, target: Path) -> None:
    partial = target.with_suffix(".partial")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(FOLDER) and name.endswith(".h"):
                archive.extract(name, partial)
    partial.rename(target)
