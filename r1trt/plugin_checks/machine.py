"""What ran where: GPU, driver, versions, commit, clocks."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from r1trt.cuda_driver import cuda_driver
from r1trt.errors import UnavailableError
from r1trt.lifetime.children import child_group
from r1trt.plugin_tools.sources import hash_of_sources, source_directory

PACKAGES = (
    "torch", "triton", "numpy", "ml_dtypes", "vllm", "flash_attn_3", "flashinfer-python", "deep_gemm",
    "liger-kernel", "nvidia-cudnn-cu13",
)  # fmt: skip
CHECKS = Path(__file__).parent
SOURCE_SUFFIXES = {".cpp", ".cu", ".h", ".py"}
CLOCKS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "clocks_event_reasons.active")
TIMEOUT_S = 20


def require_gpu() -> int:
    """Compute capability of the first GPU.

    Raises:
        UnavailableError: There is none.
    """
    driver = cuda_driver()
    if not driver.gpus:
        raise UnavailableError(
            "There is no GPU: nothing can be checked or timed here.",
            found=driver.error,
            expected="an NVIDIA GPU and its driver",
            fix="run it on a machine with a GPU; --host runs the kernels on the CPU, without times",
        )
    return driver.gpus[0].sm


def header(mode: str, plugin_library: str | None) -> dict[str, Any]:
    """What a receipt says of sources and machine.

    Args:
        mode: `gpu` or `host`.
        plugin_library: SHA-256 of the library that is checked; None for that of the sources, on the CPU.
    """
    driver = cuda_driver()
    gpu = driver.gpus[0] if driver.gpus and mode == "gpu" else None
    return {
        "mode": mode,
        "gpu": gpu.name if gpu else None,
        "sm": gpu.sm if gpu else None,
        "memory_bytes": gpu.memory if gpu else None,
        "driver": _queried("driver_version") if gpu else None,
        "cuda_driver": driver.version if gpu else None,
        "python": platform.python_version(),
        "packages": versions(),
        "commit": commit(),
        "sources": sources_hash(),
        "plugin_library": plugin_library,
    }


def versions() -> dict[str, str]:
    """Versions of the packages that are there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = str(torch.__version__)
    return found


def sources_hash() -> str:
    """A hash of the kernels, the plugins and these checks."""
    digest = hashlib.sha256(hash_of_sources(source_directory()).encode())
    for path in sorted(CHECKS.rglob("*")):
        if path.suffix in SOURCE_SUFFIXES and path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.relative_to(CHECKS)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:32]


def commit() -> str | None:
    """The checkout's commit, with `+` where its files differ; None outside of a checkout."""
    repository = CHECKS.parents[1]
    if not (repository / ".git").exists():
        return None
    head = _output(["git", "-C", str(repository), "rev-parse", "HEAD"])
    if not head:
        return None
    changed = _output(["git", "-C", str(repository), "status", "--porcelain", "--untracked-files=no"])
    return head + ("+" if changed or changed is None else "")


def clocks() -> dict[str, str] | None:
    """Clocks, power and temperature just now; None where nvidia-smi does not say."""
    values = _queried(",".join(CLOCKS))
    if values is None:
        return None
    return dict(zip(CLOCKS, (value.strip() for value in values.split(",")), strict=False))


def _queried(query: str) -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    printed = _output(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "--id=0"])
    return printed.splitlines()[0] if printed else None


def _output(command: list[str]) -> str | None:
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            process_group=child_group(),
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
