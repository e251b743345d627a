"""The bundled Triton server and the Python environment that its models run in, made once and kept.

The environment is apart from the one that r1trt runs in, since the server's Python backend needs an older
NumPy. It lies in the project's cache directory, named by what it consists of.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path

from r1trt.cache import cache_directory
from r1trt.errors import UnavailableError
from r1trt.lifetime.children import child_group
from r1trt.lifetime.ending import removed_at_ending
from r1trt.progress import Progress, ignore

SERVER_PACKAGE = "nvidia-pytriton==0.7.0"
NEWEST_PYTHON = (3, 12)
_COMPLETE = "complete"
_STUB = "triton_python_backend_stub"


@dataclass(frozen=True, kw_only=True)
class ServingEnvironment:
    """Where the parts of the bundled server are.

    Attributes:
        directory: The virtual environment.
        server: The server's program.
        backends: Its backend directory.
        library_path: Directories of the shared libraries that both need.
    """

    directory: Path
    server: Path
    backends: Path
    library_path: str

    def variables(self) -> dict[str, str]:
        """Environment variables of the server's process."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        path = os.pathsep.join([str(self.directory / "bin"), os.environ.get("PATH", os.defpath)])
        return {**inherited, "PATH": path, "LD_LIBRARY_PATH": self.library_path}


def serving_environment(progress: Progress = ignore, *, ray: bool = False) -> ServingEnvironment:
    """Finds the environment, or makes it: about 60 MB to download and 400 MB on the disk.

    Args:
        progress: Told of each phase.
        ray: Models run on a Ray cluster: another environment, with the release of Ray that is installed here.

    Raises:
        UnavailableError: This Python, machine or network does not allow it.
    """
    _require_supported_python()
    requirements = resources.files("r1trt.triton_server").joinpath("serving-requirements.txt").read_text()
    if ray:
        requirements += f"ray=={version('ray')}\n"
    identity = f"{sys.version_info[:3]} {sys.base_prefix} {SERVER_PACKAGE} {requirements}"
    directory = cache_directory() / f"serving-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / _COMPLETE).exists():
            shutil.rmtree(directory, ignore_errors=True)
            with removed_at_ending(directory):
                _make(directory, requirements, progress)
    return _environment(directory)


def _require_supported_python() -> None:
    if sys.version_info[:2] > NEWEST_PYTHON:
        raise UnavailableError(
            "The bundled server needs an older Python: its models run with NumPy 1.",
            found=sys.version.split()[0],
            expected=f"3.11 to {'.'.join(map(str, NEWEST_PYTHON))}",
            fix="run r1trt with Python 3.12, or use `r1trt triton` and Triton's container",
        )
    library = sysconfig.get_config_var("INSTSONAME")
    if not (_library_directory() / str(library)).is_file() and not _loads(str(library)):
        raise UnavailableError(
            "The bundled server needs Python's shared library.",
            expected=library,
            fix=f"install it (Debian: apt install libpython3.{sys.version_info[1]})",
        )


def _library_directory() -> Path:
    return Path(str(sysconfig.get_config_var("LIBDIR")))


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _make(directory: Path, requirements: str, progress: Progress) -> None:
    progress("making the serving environment (once)", 0, 0)
    _run([sys.executable, "-m", "venv", str(directory)])
    python = str(directory / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    file = directory / "requirements.txt"
    file.write_text(requirements)
    progress("installing the serving environment (once)", 0, 0)
    _run([*pip, "--requirement", str(file)])
    # Without what it depends on: of this package only the server is used.
    _run([*pip, "--no-deps", SERVER_PACKAGE])
    _place_backend(directory)
    (directory / _COMPLETE).touch()


def _place_backend(directory: Path) -> None:
    """Puts the Python backend together: the package keeps one stub for each version of Python elsewhere."""
    triton = _site_packages(directory) / "pytriton" / "tritonserver"
    python = directory / "backends" / "python"
    python.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy(triton / "backends" / "python" / name, python / name)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    shutil.copy(triton / "python_backend_stubs" / version / _STUB, python / _STUB)
    (python / _STUB).chmod(0o755)


def _site_packages(directory: Path) -> Path:
    return directory / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def _environment(directory: Path) -> ServingEnvironment:
    packages = _site_packages(directory)
    return ServingEnvironment(
        directory=directory,
        server=packages / "pytriton" / "tritonserver" / "bin" / "tritonserver",
        backends=directory / "backends",
        library_path=os.pathsep.join([str(packages / "nvidia_pytriton.libs"), str(_library_directory())]),
    )


def _run(command: Sequence[str]) -> None:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        command, env=inherited, capture_output=True, text=True, check=False, process_group=child_group()
    )
    if result.returncode:
        raise UnavailableError(
            "The serving environment cannot be made.",
            where=" ".join(command),
            found=result.stderr.strip() or f"exit code {result.returncode}",
            fix="check that the package index can be reached; or use `r1trt triton` and Triton's container",
        )
