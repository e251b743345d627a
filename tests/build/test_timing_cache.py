"""Files of kernel timings: where they lie, the lock, and merging, with the timing caches of a real library.

TensorRT-RTX's caches are of the same class as TensorRT's and hold no timings, so that the file's handling is
executed here and its use is not.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from r1trt.build.config import BuildConfig
from r1trt.build.target import target_from_config
from r1trt.build.timing_cache import load_timing_cache, save_timing_cache, timing_cache_file
from r1trt.cache import CACHE_VARIABLE
from r1trt.errors import BuildError, ConfigError

# Not deprecated in TensorRT, which uses them.
pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")

SAVE = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import tensorrt_rtx as trt
from r1trt.build.timing_cache import load_timing_cache, save_timing_cache
config = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR)).create_builder_config()
cache = load_timing_cache(config, Path(sys.argv[1]).with_name("other"))
print("saving", flush=True)
for _ in range(int(sys.argv[2])):
    save_timing_cache(config, Path(sys.argv[1]))
print("saved", flush=True)
"""


def saving(path: Path, times: int = 1) -> subprocess.Popen[str]:
    """A process that merges its timings into a file."""
    command = [sys.executable, "-c", SAVE, str(path), str(times)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def install_tensorrt(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an installed distribution says of itself."""
    metadata = directory / "tensorrt_cu13-11.4.0.106.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: tensorrt-cu13\nVersion: 11.4.0.106\n")
    monkeypatch.syspath_prepend(directory)


@pytest.fixture(scope="module")
def builder() -> Any:
    import tensorrt_rtx as trt

    return trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))


def test_a_file_for_each_version_and_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    install_tensorrt(tmp_path / "site", monkeypatch)
    assert timing_cache_file("tensorrt", [90]) == tmp_path / "timing" / "tensorrt-cu13-11.4.0.106-sm90.cache"
    assert timing_cache_file("tensorrt", [90], tmp_path / "own") == tmp_path / "own"
    for backend in ("tensorrt-rtx", "onnxruntime"):
        assert timing_cache_file(backend, [90]) is None  # type: ignore[arg-type]  # the literal's values


def test_a_cache_directory_that_cannot_be_made_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    install_tensorrt(tmp_path / "site", monkeypatch)
    assert timing_cache_file("tensorrt", [90]) is None


def test_written_and_read_by_a_real_library(builder: Any, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "timings"
    config = builder.create_builder_config()
    cache = load_timing_cache(config, path)
    assert cache is not None and not path.exists()
    save_timing_cache(config, path)
    written = path.read_bytes()
    assert written == bytes(cache.serialize())
    second = builder.create_builder_config()
    assert load_timing_cache(second, path) is not None
    save_timing_cache(second, path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["timings", "timings.lock"]


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, bytes(1 << 16)], ids=len)
def test_a_file_of_something_else_gives_an_empty_cache(builder: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "timings").write_bytes(content)
    config = builder.create_builder_config()
    assert load_timing_cache(config, tmp_path / "timings") is not None
    save_timing_cache(config, tmp_path / "timings")
    assert (tmp_path / "timings").read_bytes() != content


@pytest.mark.parametrize("content", [b"garbage" * 100, bytes(1 << 16), b"{}"], ids=len)
def test_a_named_file_of_something_else_is_refused_and_kept(
    builder: Any, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(BuildError, match="not a timing cache") as caught:
        load_timing_cache(builder.create_builder_config(), path, named=True)
    assert caught.value.details["where"] == str(path)
    config = builder.create_builder_config()
    assert load_timing_cache(config, tmp_path / "other", named=True) is not None
    with pytest.raises(BuildError, match="not a timing cache"):
        save_timing_cache(config, path, named=True)
    assert path.read_bytes() == content


def test_a_named_file_that_is_empty_or_an_earlier_builds(builder: Any, tmp_path: Path) -> None:
    (tmp_path / "timings").touch()
    for _ in range(2):
        config = builder.create_builder_config()
        assert load_timing_cache(config, tmp_path / "timings", named=True) is not None
        save_timing_cache(config, tmp_path / "timings", named=True)
        assert (tmp_path / "timings").stat().st_size > 0


def test_a_writer_waits_for_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "timings"
    with (tmp_path / "timings.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = saving(path)
        assert process.stdout is not None and process.stdout.readline() == "saving\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        assert not path.exists()
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert process.communicate()[0] == "saved\n"
    assert path.stat().st_size > 0


def test_many_writers_leave_a_whole_file(builder: Any, tmp_path: Path) -> None:
    config = builder.create_builder_config()
    cache = load_timing_cache(config, tmp_path / "other")
    path = tmp_path / "timings"
    processes = [saving(path, 50) for _ in range(3)]
    assert [process.communicate()[0] for process in processes] == ["saving\nsaved\n"] * 3
    assert len(path.read_bytes()) == len(bytes(cache.serialize()))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other.lock", "timings", "timings.lock"]


def test_a_place_that_cannot_be_written_is_refused_before_the_build(builder: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="--timing-cache") as caught:
        load_timing_cache(builder.create_builder_config(), tmp_path / "file" / "timings")
    assert caught.value.details["where"] == str(tmp_path / "file" / "timings")


@pytest.mark.parametrize("arch", ["ada", "cpu"])
def test_only_tensorrt_times_kernels(tmp_path: Path, arch: str) -> None:
    with pytest.raises(ConfigError, match="--timing-cache is for the builder tensorrt"):
        target_from_config(BuildConfig(arch=arch, timing_cache=tmp_path / "timings"))
    named = BuildConfig(arch=arch, backend="tensorrt", timing_cache=tmp_path / "timings")
    if arch == "ada":
        assert target_from_config(named).backend == "tensorrt"
