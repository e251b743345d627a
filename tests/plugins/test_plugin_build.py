"""`r1trt plugins build`: the real library from PyPI's compilers, the cache, builds cut off or refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness.compile import PLUGINS, REPOSITORY
from harness.official_headers import official_headers
from harness.pypi_toolchain import pypi_nvcc
from test_plugin_registry import findings, run_child
from tiny_plugin_sources import write_tiny_sources

from r1trt.cache import CACHE_VARIABLE
from r1trt.ops.registry import OPERATORS
from r1trt.plugin_tools import (
    library_from_path,
    toolchain_from_machine,
)
from r1trt.plugin_tools.library import LIBRARY_FILE, LIBRARY_VARIABLE
from r1trt.plugin_tools.sources import SOURCE_VARIABLE
from r1trt.plugin_tools.status import problem_of_library


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    return tmp_path / "cache" / "plugins"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources that build in seconds, in place of the real ones."""
    monkeypatch.setenv(SOURCE_VARIABLE, str(tmp_path / "tiny"))
    return write_tiny_sources(tmp_path / "tiny")


def r1trt(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "r1trt", *arguments], cwd=REPOSITORY, env={**os.environ, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def built(arch: str, *options: str, **environment: str) -> dict[str, Any]:
    result = r1trt("plugins", "build", "--arch", arch, "--json", *options, **environment)
    assert result.returncode == 0, result.stderr + result.stdout
    library: dict[str, Any] = json.loads(result.stdout)
    return library


def tool(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# ------------------------------------------------------------------ the real library


@pytest.mark.slow
def test_hopper_from_pypis_compilers(tmp_path: Path, cache: Path) -> None:
    """As in an environment without CUDA: compilers from PyPI, the project's own TensorRT headers."""
    nvcc = pypi_nvcc()
    library = built("hopper", "-o", str(tmp_path / "out"), CUDACXX=str(nvcc))
    assert (library["cached"], library["sms"], library["headers"]) == (False, [90], "own")
    assert library["operators"] == list(OPERATORS)

    again = built("hopper", CUDACXX=str(nvcc))
    assert again["cached"] and again["sha256"] == library["sha256"]
    assert sorted(path.name for path in cache.glob("[!.]*/*")) == ["build.log", LIBRARY_FILE, "sha256"]

    require_sound(tmp_path / "out" / LIBRARY_FILE)


def require_sound(path: Path) -> None:
    """It needs no library of TensorRT or CUDA, exports two functions, and TensorRT-RTX lists its plugins."""
    needed = {
        line.split("[")[1].rstrip("]")
        for line in tool("readelf", "-d", str(path)).splitlines()
        if "(NEEDED)" in line
    }
    assert not [name for name in needed if "nvinfer" in name or "cuda" in name], needed
    exported = [line.split()[-1] for line in tool("nm", "-D", "--defined-only", str(path)).splitlines()]
    assert sorted(exported) == ["getCreators", "setLoggerFinder"]
    assert problem_of_library(library_from_path(path)) is None
    child = run_child("rtx_child.py", "load", path)
    assert sorted(item["creator"] for item in findings(child) if "creator" in item) == sorted(OPERATORS)


def configured(folder: Path, *options: str) -> Path:
    """CMake's build folder, with NVIDIA's headers of TensorRT 10."""
    nvcc = str(toolchain_from_machine().nvcc)
    defined = [f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DTENSORRT_INCLUDE_DIR={official_headers()}", *options]
    tool("cmake", "-S", str(PLUGINS), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release", *defined)
    return folder


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What CMake builds whole, with `--all-cases`: minutes for each."""
    if "target" in metafunc.fixturenames:
        every = metafunc.config.getoption("--all-cases")
        metafunc.parametrize("target", ["89", "90a"] if every else ["80"])


@pytest.mark.slow
def test_cmake_builds_the_same(target: str, tmp_path: Path) -> None:
    """For one architecture: Hopper's own kernels take minutes."""
    folder = configured(tmp_path, f"-DR1TRT_SMS={target}")
    done = subprocess.run(
        ["cmake", "--build", str(folder), "-j", "2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    path = folder / LIBRARY_FILE
    library = library_from_path(path)
    found = (f"{library.sms[0]}", library.operators, library.headers[:6])
    assert found == (target.removesuffix("a"), tuple(OPERATORS), "10.14.")
    require_sound(path)
