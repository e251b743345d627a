"""What is installed here, what can be built here, and how to get what is missing.

Libraries that may be broken or absent are probed in a child process: whatever they print, and even a crash,
ends there.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from r1trt import __version__
from r1trt.arch import ARCHITECTURES, Architecture
from r1trt.cuda_driver import CudaDriver, cuda_driver
from r1trt.lifetime.children import child_group
from r1trt.machine import memory_of_machine, processors
from r1trt.plugin_tools.status import plugins_status

PACKAGES = (
    # distribution, extra that brings it ("" = always installed), what needs it
    ("numpy", "", "everything"),
    ("onnx", "", "export, build"),
    ("onnx-ir", "", "export, build"),
    ("onnxscript", "", "export, build"),
    ("ml_dtypes", "", "export, build"),
    ("safetensors", "", "build"),
    ("tokenizers", "", "generate"),
    ("onnxruntime", "cpu", "build --arch cpu, FP8 calibration, validate, generate"),
    ("onnxruntime-gpu", "gpu", "the same, with CUDA"),
    ("tensorrt-rtx-cu13", "cpu", "build for ampere, ada, blackwell without a GPU"),
    ("tensorrt-cu13", "gpu", "build on the target GPU"),
    ("cuda-python", "gpu", "running TensorRT engines"),
    ("torch", "torch", "validate"),
    ("transformers", "torch", "validate"),
    ("polygraphy", "torch", "validate"),
    ("matplotlib", "torch", "validate"),
    ("tritonclient", "triton", "triton"),
)

PROBE_TIMEOUT_S = 120

# What each child process runs; it prints one line of JSON last.
PROBES: Mapping[str, str] = {
    "onnxruntime": """
import json, onnxruntime as ort
print(json.dumps({"version": ort.__version__, "providers": ort.get_available_providers()}))
""",
    "tensorrt": """
import json, tensorrt as trt
trt.Logger(trt.Logger.ERROR)
print(json.dumps({"version": trt.__version__}))
""",
    "tensorrt_rtx": """
import json, tensorrt_rtx as trt
trt.Logger(trt.Logger.ERROR)
sms = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
print(json.dumps({"version": trt.__version__, "compute_capabilities": sms}))
""",
}


def diagnosis_of_machine() -> dict[str, Any]:
    """Examines this machine.

    Returns:
        A mapping that can be written as JSON: `python`, `packages`, `libraries`, `plugins`, `cuda`,
        `architectures`, `memory`, `disk`, ...
    """
    driver = cuda_driver()
    libraries = {name: probe_library(name) for name in PROBES}
    return {
        "r1trt": __version__,
        "cpus": processors(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _packages(),
        "libraries": libraries,
        "plugins": plugins_status(driver),
        "cuda": asdict(driver),
        "architectures": _architectures(libraries, driver),
        "memory": asdict(memory_of_machine()),
        "disk": _disk(Path.cwd()),
    }


def probe_library(module: str) -> dict[str, Any]:
    """Imports one of `PROBES` in a child process.

    Returns:
        `works`, and what the probe found, or `error` (the last line that the child printed).
    """
    command = [sys.executable, "-c", PROBES[module]]
    try:
        child = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            process_group=child_group(),
        )
    except subprocess.TimeoutExpired:
        return {"works": False, "error": f"no answer within {PROBE_TIMEOUT_S} s"}
    if child.returncode == 0 and child.stdout.strip():
        return {"works": True, **json.loads(child.stdout.strip().splitlines()[-1])}
    printed = (child.stderr.strip() or f"exit status {child.returncode}").splitlines()
    return {"works": False, "error": printed[-1]}


def _architectures(libraries: Mapping[str, Any], driver: CudaDriver) -> list[dict[str, Any]]:
    sms_here = {gpu.sm for gpu in driver.gpus}
    return [architecture_status(arch, libraries, sms_here) for arch in ARCHITECTURES.values()]


def architecture_status(
    arch: Architecture, libraries: Mapping[str, Any], sms_here: set[int]
) -> dict[str, Any]:
    """What `r1trt build --arch` does on a machine with these libraries and GPUs.

    Returns:
        `builds` (SMs by backend; "cpu" in place of an SM for the CPU), `runs`, `missing`, ...
    """
    builds: dict[str, list[Any]] = {}
    if not arch.sms and libraries["onnxruntime"]["works"]:
        builds["onnxruntime"] = ["cpu"]
    if arch.offline_sms and libraries["tensorrt_rtx"]["works"]:
        builds["tensorrt-rtx"] = list(arch.offline_sms)
    on_target = sorted(sms_here & set(arch.sms))
    if on_target and libraries["tensorrt"]["works"]:
        builds["tensorrt"] = on_target
    return {
        "arch": arch.name,
        "sms": list(arch.sms),
        "fp8": arch.fp8,
        "builds": builds,
        "runs": not arch.sms or bool(on_target),
        "missing": _missing(arch, libraries, bool(on_target), builds),
    }


def _missing(
    arch: Architecture, libraries: Mapping[str, Any], gpu_is_here: bool, builds: Mapping[str, Any]
) -> list[str]:
    """What to do for those of the architecture's SMs that cannot be built for here."""
    if not arch.sms:
        return [] if builds else ["pip install 'r1trt[cpu]' (ONNX Runtime)"]
    built = {sm for sms in builds.values() for sm in sms}
    left = [sm for sm in arch.sms if sm not in built]
    if not left:
        return []
    steps = []
    if not libraries["tensorrt_rtx"]["works"] and arch.offline_sms:
        steps.append("pip install 'r1trt[cpu]' (TensorRT-RTX)")
    if "tensorrt" not in builds:
        gpus = ", ".join(f"SM{sm}" for sm in left)
        steps += [] if gpu_is_here else [f"a machine with the GPU ({gpus})"]
        steps += [] if libraries["tensorrt"]["works"] else ["pip install 'r1trt[gpu]' (TensorRT 11)"]
    return steps


def _packages() -> list[dict[str, Any]]:
    found = []
    for name, extra, needed_for in PACKAGES:
        try:
            version: str | None = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = None
        found.append({"name": name, "version": version, "extra": extra, "needed_for": needed_for})
    return found


def _disk(directory: Path) -> dict[str, Any]:
    usage = shutil.disk_usage(directory)
    return {"path": str(directory), "total": usage.total, "free": usage.free}
