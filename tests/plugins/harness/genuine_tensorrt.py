"""Parts of the real TensorRT 11.4 that install without a GPU: its lean runtime, and both Python bindings.

NVIDIA's, under its licence: fetched for tests, and no part of the project.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from harness.wheels import Wheel, extracted

VERSION, PYTHON = "11.4.0.106", (3, 11)
_TAG = "cp311-none-manylinux_2_28_x86_64"


def _wheel(name: str, sha256: str, tag: str = _TAG) -> Wheel:
    file = f"{name.replace('-', '_')}-{VERSION}-{tag}.whl"
    return Wheel(requirement=f"{name}=={VERSION}", file=file, sha256=sha256)


WHEELS = (
    _wheel(
        "tensorrt-lean-cu13-libs",
        "e022b8d0e21f19258657aec6760e1de8b454ed176f76217e3f7ec2036c5a9410",
        "py3-none-manylinux_2_28_x86_64",
    ),
    _wheel("tensorrt-lean-cu13-bindings", "539faf8524d7e8c5d893857d97d170ef3636f3e71262aafa670797f740e9086a"),
    _wheel("tensorrt-cu13-bindings", "d072ac2a095e2be749fefc847adfb25d5ebe70303401df62ede8fe67a59f27fc"),
)
LEAN = "tensorrt_lean_libs/libnvinfer_lean.so.11"

# What the full module's libraries are asked for as it is imported; nothing of it is called.
STUBS = """
extern "C" {
void* createInferBuilder_INTERNAL(void*, int) { return nullptr; }
void* createInferRefitter_INTERNAL(void*, void*, int) { return nullptr; }
void* createInferRuntime_INTERNAL(void*, int) { return nullptr; }
void* createNvOnnxParserRefitter_INTERNAL(void*, void*, int) { return nullptr; }
void* createNvOnnxParser_INTERNAL(void*, void*, int) { return nullptr; }
void* getBuilderPluginRegistry(int) { return nullptr; }
int getNvOnnxParserVersion() { return 0; }
bool initLibNvInferPlugins(void*, char const*) { return true; }
}
"""


def genuine_tensorrt() -> Path:
    """The folder with the files of all wheels."""
    assert sys.version_info[:2] == PYTHON, "NVIDIA's bindings are for one version of Python each"
    return extracted("tensorrt", WHEELS)


def lean_module(folder: Path) -> ModuleType:
    """`tensorrt_lean`, over the lean runtime; its registry is TensorRT's own."""
    _open_globally(folder / LEAN)
    sys.path.insert(0, str(folder))
    return importlib.import_module("tensorrt_lean_bindings.tensorrt_lean")


def full_module(folder: Path, scratch: Path) -> ModuleType:
    """`tensorrt`, of which names and signatures are NVIDIA's; its builder and parser are absent.

    Args:
        folder: What `genuine_tensorrt` gives.
        scratch: Where stand-ins of the absent libraries are made.
    """
    _open_globally(folder / LEAN)
    for library in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
        name = f"lib{library}.so.11"
        command = ["g++", "-x", "c++", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", scratch / name, "-"]
        subprocess.run(command, input=STUBS, text=True, check=True)
        _open_globally(scratch / name)
    file = folder / "tensorrt_bindings" / "tensorrt.so"
    specification = importlib.util.spec_from_file_location("tensorrt", file)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _open_globally(library: Path) -> None:
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
