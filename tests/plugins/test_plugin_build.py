"""`r1trt plugins build`: the real library from PyPI's compilers, the cache, builds cut off or refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from harness.compile import PLUGINS, REPOSITORY
from harness.official_headers import official_headers
from harness.pypi_toolchain import pypi_nvcc
from test_plugin_registry import findings, run_child
from tiny_plugin_sources import KERNEL, REGISTER, write_tiny_sources

from r1trt.cache import CACHE_VARIABLE
from r1trt.errors import BuildError, ConfigError, R1TrtError, UnavailableError
from r1trt.ops.registry import OPERATORS
from r1trt.plugin_tools import (
    PluginBuildConfig,
    build_plugins,
    library_from_path,
    toolchain,
    toolchain_from_machine,
)
from r1trt.plugin_tools.build import TARGETS
from r1trt.plugin_tools.library import LIBRARY_FILE, LIBRARY_VARIABLE
from r1trt.plugin_tools.sources import SOURCE_VARIABLE, hash_of_sources
from r1trt.plugin_tools.status import problem_of_library
from r1trt.plugin_tools.targets import HOPPER_FLAGS, HOPPER_SOURCES


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


@pytest.mark.slow
def test_cmake_builds_the_same(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """For one architecture: Hopper's own kernels take minutes, and are built with `--all-cases`."""
    target = "90a" if pytestconfig.getoption("--all-cases") else "89"
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


def test_cmake_compiles_hoppers_kernels_as_they_are(tmp_path: Path) -> None:
    folder = configured(tmp_path, "-DR1TRT_SMS=90a", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")
    commands = {
        Path(entry["file"]).name: entry["command"]
        for entry in json.loads((folder / "compile_commands.json").read_text())
    }
    for name in HOPPER_SOURCES:
        assert HOPPER_FLAGS[0] in commands[name].split() and "sm_90a" in commands[name], name


# ------------------------------------------------------------------ what is built, and from what


def test_every_architecture_is_compiled_for() -> None:
    assert PluginBuildConfig().sms == (80, 86, 89, 90, 100, 120) == tuple(TARGETS)
    assert PluginBuildConfig(arch="hopper").sms == (90,)
    assert PluginBuildConfig(arch="ampere").sms == (80, 86)
    assert PluginBuildConfig(arch="blackwell").sms == (100, 120)
    with pytest.raises(ConfigError, match="not built for this architecture"):
        PluginBuildConfig(arch="cpu")


def test_a_second_build_is_a_cache_hit(tiny: Path, cache: Path) -> None:
    steps: list[str] = []
    first = build_plugins(PluginBuildConfig(arch="ada"), steps.append)
    assert not first.cached and "compiling tiny.cu" in steps
    steps.clear()
    second = build_plugins(PluginBuildConfig(arch="ada"), steps.append)
    assert second.cached and second.sha256 == first.sha256
    assert steps == [f"found in the cache: {second.path}"]
    assert second.sources == hash_of_sources(tiny)


def test_what_decides_the_result_decides_the_entry(tiny: Path) -> None:
    keys = {build_plugins(PluginBuildConfig(arch=arch)).key for arch in ("ada", "hopper")}
    (tiny / "tiny.h").write_text("// a header that nobody includes yet\n")
    keys.add(build_plugins(PluginBuildConfig(arch="ada")).key)
    keys.add(build_plugins(PluginBuildConfig(arch="ada", headers=official_headers())).key)
    assert len(keys) == 4


def test_a_damaged_entry_is_built_again(tiny: Path) -> None:
    first = build_plugins(PluginBuildConfig(arch="ada"))
    first.path.write_bytes(first.path.read_bytes()[:-1])
    assert not build_plugins(PluginBuildConfig(arch="ada")).cached
    assert build_plugins(PluginBuildConfig(arch="ada")).cached


def test_the_output_is_replaced_in_one_step(tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    build_plugins(PluginBuildConfig(arch="ada", output=output))
    with (output / LIBRARY_FILE).open("rb") as held:  # as a process that has the old one loaded
        build_plugins(PluginBuildConfig(arch="hopper", output=output))
        assert b'"sms": [89]' in held.read().replace(b'\\"', b'"')
    assert library_from_path(output / LIBRARY_FILE).sms == (90,)
    assert [path.name for path in output.iterdir()] == [LIBRARY_FILE]


# ------------------------------------------------------------------ builds that are cut off


def slow_nvcc(directory: Path) -> Path:
    """An nvcc that says who it is, and then does not come to an end with a kernel."""
    script = directory / "slow-nvcc"
    script.write_text(
        f"""#!/bin/sh
case "$*" in
  *--version*|*--dryrun*) exec {toolchain_from_machine().nvcc} "$@";;
esac
touch {directory}/half.o
echo $$ > {directory}/pid
exec sleep 600
"""
    )
    script.chmod(0o755)
    return script


def wait_for(path: Path) -> int:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(path.read_text())


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_a_build_that_is_cut_off_leaves_nothing_half(
    tiny: Path, tmp_path: Path, cache: Path, signum: signal.Signals, code: int
) -> None:
    before = build_plugins(PluginBuildConfig(arch="hopper"))
    child = subprocess.Popen(
        [sys.executable, "-m", "r1trt", "plugins", "build", "--arch", "ada"], cwd=REPOSITORY,
        env={**os.environ, "CUDACXX": str(slow_nvcc(tmp_path))}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    compiler = wait_for(tmp_path / "pid")
    child.send_signal(signum)
    child.communicate(timeout=60)
    assert child.returncode == code
    if signum == signal.SIGKILL:
        os.kill(compiler, signal.SIGKILL)
    else:
        assert not is_running(compiler)
        assert not list(cache.glob(".*.tmp-*"))
    assert [path.parent.name for path in cache.glob(f"[!.]*/{LIBRARY_FILE}")] == [before.key]

    after = build_plugins(PluginBuildConfig(arch="ada"))
    assert not after.cached and not list(cache.glob(".*.tmp-*"))


def test_two_builds_at_once_compile_once(tiny: Path) -> None:
    command = [sys.executable, "-m", "r1trt", "plugins", "build", "--arch", "ada", "--json"]
    children = [
        subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    results = [json.loads(child.communicate(timeout=300)[0]) for child in children]
    assert sorted(result["cached"] for result in results) == [False, True]


# ------------------------------------------------------------------ what is refused


def refusal(config: PluginBuildConfig | None = None) -> R1TrtError:
    with pytest.raises(R1TrtError) as caught:
        build_plugins(config or PluginBuildConfig(arch="ada"))
    return caught.value


@pytest.mark.parametrize("name", ["register.cpp", "tiny.cu"])
def test_a_source_that_does_not_compile(tiny: Path, cache: Path, name: str) -> None:
    with (tiny / name).open("a") as file:
        file.write("int broken = nothing_of_that_name;\n")
    error = refusal()
    assert isinstance(error, BuildError)
    assert error.details["where"].endswith(name)
    assert "nothing_of_that_name" in error.details["found"]
    assert not list(cache.glob("[!.]*")) and not list(cache.glob(".*.tmp-*"))


def test_a_library_that_does_not_link(tmp_path: Path, tiny: Path) -> None:
    write_tiny_sources(tiny, kernel=KERNEL.replace("tinyLaunch", "otherLaunch"))
    assert "tinyLaunch" in refusal().details["found"]


def test_no_compiler(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "SYSTEM_NVCC", Path("/nonexistent/nvcc"))
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    error = refusal()
    assert isinstance(error, UnavailableError) and error.exit_code == 3
    assert "no CUDA compiler" in error.message
    assert "pip install nvidia-cuda-nvcc==" in error.details["fix"]


def test_pypis_compiler_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = pypi_nvcc()
    monkeypatch.setattr(toolchain, "SYSTEM_NVCC", Path("/nonexistent/nvcc"))
    monkeypatch.setenv("CXX", shutil.which("g++") or "g++")
    monkeypatch.setenv("PATH", "/nonexistent")
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(nvcc.parents[3])
    found = toolchain_from_machine()
    assert found.nvcc == nvcc
    assert found.runtime.is_relative_to(nvcc.parents[1]) and found.include.is_relative_to(nvcc.parents[1])


def fake_nvcc(directory: Path, says: str, status: int = 0) -> str:
    script = directory / "fake-nvcc"
    script.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    script.chmod(0o755)
    return str(script)


def test_a_compiler_that_is_named_and_absent(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDACXX", "/nonexistent/nvcc")
    assert refusal().details["where"] == "CUDACXX=/nonexistent/nvcc"


@pytest.mark.parametrize(
    ("says", "status", "message"),
    [("release 11.8, V11.8.89", 0, "too old"), ("hello", 0, "says no version"), ("", 1, "does not run")],
)
def test_a_compiler_that_is_no_good(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, status: int, message: str
) -> None:
    monkeypatch.setenv("CUDACXX", fake_nvcc(tmp_path, says, status))
    error = refusal()
    assert message in error.message and "fake-nvcc" in error.details["where"]


def test_a_toolkit_without_its_runtime_library(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDACXX", fake_nvcc(tmp_path, "release 13.0, V13.0.88"))
    assert "incomplete" in refusal().message


def test_no_cxx_compiler(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    error = refusal()
    assert isinstance(error, UnavailableError) and "no no-such-compiler on the path" in error.details["found"]


def test_no_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SOURCE_VARIABLE, str(tmp_path))
    assert "sources are not here" in refusal().message


def test_headers_of_another_tensorrt(tiny: Path, tmp_path: Path) -> None:
    assert "no TensorRT headers" in refusal(PluginBuildConfig(arch="ada", headers=tmp_path)).message
    (tmp_path / "NvInferRuntime.h").touch()
    (tmp_path / "NvInferVersion.h").write_text("#define NV_TENSORRT_MAJOR 8\n#define NV_TENSORRT_MINOR 6\n")
    error = refusal(PluginBuildConfig(arch="ada", headers=tmp_path))
    assert error.details["found"] == "8.6.?" and error.details["expected"] == "TensorRT 10 or 11"


def test_serialized_matrix_products_end_the_build(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ptxas only mentions it, and the library would be many times slower."""
    script = tmp_path / "wordy-nvcc"
    says = "ptxas info : (C7520) Potential Performance Loss: wgmma.mma_async instructions are serialized"
    script.write_text(f'#!/bin/sh\necho "{says}" >&2\nexec {toolchain_from_machine().nvcc} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CUDACXX", str(script))
    error = refusal()
    assert "one after another" in error.message and "C7520" in error.details["found"]


def test_a_library_without_the_plugins_is_a_problem(tiny: Path, tmp_path: Path) -> None:
    library = build_plugins(PluginBuildConfig(arch="ada"))
    assert problem_of_library(library) == "it has 0 plugins; 3 expected"
    write_tiny_sources(tiny, register=REGISTER + "// changed\n")
    assert problem_of_library(library) == "built from other sources than those that are here"
