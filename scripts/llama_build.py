"""llama.cpp as a peer of ours, built from its source on PyPI, and the same weights as its GGUF files.

`llama-cpp-python` carries llama.cpp's source. Of it only the programs asked for are built, for this machine's
own CPU; that takes CMake, a C++ compiler and some minutes, once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

NAME = "llama-cpp-python"
PACKAGE = f"{NAME}==0.3.36"
CMAKE_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
)
_LIBRARIES = ("src/libllama.a", *(f"ggml/src/libggml{part}.a" for part in ("", "-cpu", "-base")))
_CONVERT = Path(__file__).with_name("llama_convert.py")
_WORKER = Path(__file__).with_name("llama_worker.cpp")


def llama_program(directory: Path, name: str) -> Path:
    """Returns a program such as "llama-server", built in `directory` unless it is there already."""
    program = directory / "build" / "bin" / name
    if program.exists():
        return program
    source, build = llama_source(directory), directory / "build"
    print(f"building {name} of {PACKAGE} in {directory}: some minutes", file=sys.stderr, flush=True)
    _run("cmake", "-S", source, "-B", build, *CMAKE_OPTIONS)
    _run("cmake", "--build", build, "--target", name, "-j", os.cpu_count() or 1)
    return program


def llama_source(directory: Path) -> Path:
    """Returns llama.cpp's source, downloaded unless it is in `directory` already."""
    directory.mkdir(parents=True, exist_ok=True)
    if not list(directory.glob("llama_cpp_python-*.tar.gz")):
        # Of this package alone the source: what pip needs to read its metadata it would else compile too.
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", NAME)
        _run(*pip, "--dest", directory, PACKAGE)
    archive = next(directory.glob("llama_cpp_python-*.tar.gz"))
    root = directory / archive.name.removesuffix(".tar.gz")
    if not root.is_dir():
        with tarfile.open(archive) as tar:
            tar.extractall(directory, filter="data")
    return root / "vendor" / "llama.cpp"


def llama_worker(directory: Path) -> Path:
    """Returns `llama_worker.cpp` as a program, linked with the libraries of the programs."""
    program = directory / "llama_worker"
    if program.exists() and program.stat().st_mtime > _WORKER.stat().st_mtime:
        return program
    llama_program(directory, "llama-quantize")  # and so the libraries
    source, build = llama_source(directory), directory / "build"
    includes = (f"-I{source / 'include'}", f"-I{source / 'ggml' / 'include'}")
    libraries = [build / library for library in _LIBRARIES]
    _run("g++", "-std=c++17", "-O2", *includes, _WORKER, "-o", program, *libraries, "-fopenmp", "-lpthread")
    return program


def quantized_gguf(directory: Path, checkpoint: Path, work: Path, kind: str) -> Path:
    """Returns a GGUF file of the checkpoint's weights, made unless it is there.

    Args:
        directory: Where llama.cpp is.
        checkpoint: Weights.
        work: Where files go.
        kind: "F32", "Q8_0", "Q4_0", "Q4_K_M"; quantized from the FP32 file, without an importance matrix.
    """
    path = work / f"{kind}.gguf"
    if path.exists():
        return path
    made = path.with_suffix(".part")
    if kind == "F32":
        converter = llama_source(directory) / "convert_hf_to_gguf.py"
        _run(sys.executable, _CONVERT, converter, checkpoint, "--outtype", "f32", "--outfile", made)
    else:
        exact = quantized_gguf(directory, checkpoint, work, "F32")
        _run(llama_program(directory, "llama-quantize"), exact, made, kind)
    made.rename(path)
    return path


def _run(*command: object) -> None:
    subprocess.run(list(map(str, command)), check=True, stdout=sys.stderr)
