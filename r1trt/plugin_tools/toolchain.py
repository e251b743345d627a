"""The compilers and libraries that build the plugins, from the system or from PyPI packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from r1trt.errors import BuildError, UnavailableError
from r1trt.lifetime.children import child_group

# One toolkit's parts. NOTES: pip would combine nvcc with the newest crt and nvvm, and only equal ones fit.
PYPI_PACKAGES = (
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
)
MIN_NVCC = (12, 8)
NVCC_VARIABLE = "CUDACXX"
SYSTEM_NVCC = Path("/usr/local/cuda/bin/nvcc")
RUNTIME_LIBRARY = "libcudart_static.a"
TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """What the plugins are compiled with.

    Attributes:
        nvcc: The CUDA compiler.
        nvcc_version: Its release, as in "13.0.88".
        cxx: The C++ compiler.
        cxx_version: The first line of what it says about itself.
        include: The folder of the CUDA runtime's headers.
        runtime: The static CUDA runtime library.
    """

    nvcc: Path
    nvcc_version: str
    cxx: Path
    cxx_version: str
    include: Path
    runtime: Path


def toolchain_from_machine() -> Toolchain:
    """Finds a toolchain: $CUDACXX, $CUDA_HOME, nvcc on the path, /usr/local/cuda, PyPI packages; $CXX or g++.

    Raises:
        UnavailableError: A part is not there; the message names it and how to get it.
        BuildError: nvcc is too old, or does not run.
    """
    nvcc = _nvcc()
    name = os.environ.get("CXX", "g++")
    cxx = shutil.which(name)
    if cxx is None:
        raise UnavailableError(
            "There is no C++ compiler.", found=f"no {name} on the path", fix="apt-get install g++"
        )
    root = _toolkit_root(nvcc)
    return Toolchain(
        nvcc=nvcc,
        nvcc_version=_nvcc_version(nvcc),
        cxx=Path(cxx),
        cxx_version=_first_line([cxx, "--version"]),
        include=_part(root, ("include", "targets/x86_64-linux/include"), "cuda_runtime_api.h").parent,
        runtime=_part(root, ("lib64", "lib", "targets/x86_64-linux/lib"), RUNTIME_LIBRARY),
    )


def _nvcc() -> Path:
    named = os.environ.get(NVCC_VARIABLE)
    found = next((path for path in _nvcc_candidates(named) if os.access(path, os.X_OK)), None)
    if found is not None:
        return found
    raise UnavailableError(
        "There is no CUDA compiler.",
        where=f"{NVCC_VARIABLE}={named}" if named else None,
        found="no such program"
        if named
        else f"neither CUDA_HOME, nvcc on the path, {SYSTEM_NVCC} nor PyPI packages",
        expected=f"nvcc {'.'.join(map(str, MIN_NVCC))} or newer",
        fix=f"{sys.executable} -m pip install {' '.join(PYPI_PACKAGES)}",
    )


def _nvcc_candidates(named: str | None) -> Iterator[Path]:
    if named:
        # Who names a compiler wants no other.
        yield Path(shutil.which(named) or named)
        return
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if root := os.environ.get(variable):
            yield Path(root) / "bin" / "nvcc"
    if found := shutil.which("nvcc"):
        yield Path(found)
    yield SYSTEM_NVCC
    for directory in sys.path:
        # NOTES: the packages share a namespace folder, one a major version of CUDA.
        yield from sorted(Path(directory).glob("nvidia/cu*/bin/nvcc"), reverse=True)


def _part(root: Path, folders: tuple[str, ...], name: str) -> Path:
    for folder in folders:
        if (path := root / folder / name).exists():
            return path
    raise UnavailableError(
        "The CUDA toolkit is incomplete.",
        where=root,
        found=f"no {name} in {', '.join(folders)}",
        fix=f"install all of a toolkit, or {sys.executable} -m pip install {' '.join(PYPI_PACKAGES)}",
    )


def _nvcc_version(nvcc: Path) -> str:
    text = _output([str(nvcc), "--version"])
    match = re.search(r"V(\d+)\.(\d+)\.(\d+)", text)
    if match is None or (int(match[1]), int(match[2])) < MIN_NVCC:
        raise BuildError(
            "nvcc is too old, or says no version.",
            where=nvcc,
            found=match[0] if match else text.strip()[-200:],
            expected=f"{'.'.join(map(str, MIN_NVCC))} or newer, for SM100 and SM120",
            fix=f"{sys.executable} -m pip install {' '.join(PYPI_PACKAGES)}",
        )
    return match[0][1:]


def _toolkit_root(nvcc: Path) -> Path:
    """The toolkit's folder as nvcc itself has it: `nvcc` may be a link to it, or a script that starts it."""
    command = [str(nvcc), "--dryrun", "-x", "cu", "-c", os.devnull]
    result = _run(command, check=False)
    if match := re.search(r"^#\$ TOP=(.+)$", result.stderr, re.MULTILINE):
        return Path(match[1]).resolve()
    beside = nvcc.resolve().parents[1]
    # It also fails where it finds no gcc, which another compiler replaces here.
    if result.returncode != 0 and not (beside / "include").is_dir():
        raise BuildError(
            "nvcc does not run.",
            where=nvcc,
            found=result.stderr.strip()[-500:] or f"exit status {result.returncode}",
            fix="if it has no room for temporary files, set TMPDIR to a folder on another disk",
        )
    return beside


def _first_line(command: list[str]) -> str:
    return _output(command).splitlines()[0]


def _output(command: list[str]) -> str:
    try:
        result = _run(command, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError("A compiler does not run.", where=command[0], found=error) from error
    return result.stdout


def _run(command: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=check,
        stdin=subprocess.DEVNULL,
        process_group=child_group(),
    )
