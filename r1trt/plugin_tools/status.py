"""What `r1trt doctor` says of the plugin library and of what it would be built with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1trt.cuda_driver import CudaDriver, driver_problem
from r1trt.errors import R1TrtError
from r1trt.lifetime.children import child_group
from r1trt.plugin_tools.library import PluginLibrary, find_library
from r1trt.plugin_tools.sources import hash_of_sources, headers_from_machine, source_directory
from r1trt.plugin_tools.targets import FP8_INSTRUCTIONS, HOPPER_FP8_INSTRUCTION, HOPPER_SM
from r1trt.plugin_tools.toolchain import toolchain_from_machine

TIMEOUT_S = 60

# Loads a library as a program without TensorRT does, and counts its plugins.
_PROBE = """
import ctypes, os, sys
library = ctypes.CDLL(sys.argv[1], mode=os.RTLD_NOW)
library.setLoggerFinder
library.getCreators.restype = ctypes.POINTER(ctypes.c_void_p)
count = ctypes.c_int32()
creators = library.getCreators(ctypes.byref(count))
print(count.value if creators and all(creators[i] for i in range(count.value)) else -1)
"""


def plugins_status(driver: CudaDriver) -> dict[str, Any]:
    """Examines the library that a build would take, and the toolchain.

    Args:
        driver: This machine's; a library's CUDA runtime may be newer than what it supports.

    Returns:
        A mapping that can be written as JSON: `library`, its manifest's entry with `path` and `problem` (None
        where it is sound), or None; `toolchain`, or None; `missing`, what to do about what is not there;
        `fp8_products`.
    """
    missing = []
    try:
        found = find_library()
        library = None if found is None else _library(found, driver)
    except R1TrtError as error:
        library = {"path": error.details.get("where"), "problem": str(error).replace("\n ", ";")}
    if library is None or (library["problem"] and library["problem"] != _driver_problem(library, driver)):
        missing.append("r1trt plugins build --arch all")
    try:
        toolchain = _toolchain()
    except R1TrtError as error:
        toolchain = None
        missing.insert(0, error.details.get("fix", error.message))
    return {
        "library": library, "toolchain": toolchain, "missing": missing, "fp8_products": fp8_products(),
    }  # fmt: skip


def _driver_problem(library: Mapping[str, Any], driver: CudaDriver) -> str | None:
    """What building it anew would not change."""
    return driver_problem(library["nvcc"], driver) if "nvcc" in library else None


def fp8_products() -> dict[str, str]:
    """Where the plugins' products of FP8 by FP8 run: on which cores, and the SMs."""
    on_fp8 = [f"SM{sm}" for sm, name in FP8_INSTRUCTIONS.items() if name == "QMMA"]
    widened = [f"SM{sm}" for sm, name in FP8_INSTRUCTIONS.items() if name == "HMMA"]
    return {
        f"on FP8 tensor cores ({HOPPER_FP8_INSTRUCTION}, QMMA)": ", ".join([f"SM{HOPPER_SM}", *on_fp8]),
        "as FP16 (HMMA)": ", ".join(
            f"{sm} with few rows" if sm == f"SM{HOPPER_SM}" else sm for sm in widened
        ),
    }


def _library(library: PluginLibrary, driver: CudaDriver) -> dict[str, Any]:
    problem = problem_of_library(library) or driver_problem(library.nvcc, driver)
    return {**library.as_manifest(), "path": str(library.path), "problem": problem}


def _toolchain() -> dict[str, str]:
    chain = toolchain_from_machine()
    return {
        "nvcc": str(chain.nvcc),
        "nvcc_version": chain.nvcc_version,
        "cxx": str(chain.cxx),
        "cxx_version": chain.cxx_version,
        "headers": headers_from_machine().version,
    }


def problem_of_library(library: PluginLibrary) -> str | None:
    """Why a library is not to be used here: it does not load, lacks plugins or is of other sources.

    It is loaded in a child process: whatever it does there ends there.
    """
    if library.sources and library.sources != _sources_here(library):
        return "built from other sources than those that are here"
    return _loading_problem(library.path, len(library.operators))


def _sources_here(library: PluginLibrary) -> str:
    try:
        return hash_of_sources(source_directory())
    except R1TrtError:
        return library.sources


def _loading_problem(path: Path, plugins: int) -> str | None:
    try:
        child = subprocess.run(
            [sys.executable, "-c", _PROBE, str(path)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            process_group=child_group(),
        )
    except subprocess.TimeoutExpired:
        return f"loading it did not end within {TIMEOUT_S} s"
    if child.returncode != 0:
        return (child.stderr.strip() or f"exit status {child.returncode}").splitlines()[-1]
    found = child.stdout.strip()
    return None if found == str(plugins) else f"it has {found} plugins; {plugins} expected"
