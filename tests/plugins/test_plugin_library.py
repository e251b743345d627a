"""Which library is found, what is refused, and what a build and its manifest make of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typical_manifests import BUILD

from r1trt.artifacts.build import BuildArtifact, BuildManifest
from r1trt.artifacts.fields import from_json
from r1trt.build.config import BuildConfig
from r1trt.build.plugins import BuildPlugins, plugins_for_build, plugins_of_unfinished
from r1trt.cache import CACHE_VARIABLE
from r1trt.errors import BuildError, ConfigError, UnavailableError
from r1trt.ops.registry import OPERATORS
from r1trt.plugin_tools import find_library, library_from_path
from r1trt.plugin_tools.library import INFO_KEYS, INFO_MARKER, LIBRARY_FILE, LIBRARY_VARIABLE
from r1trt.plugin_tools.sources import hash_of_sources, source_directory

UNFINISHED = from_json(BuildManifest, {**BUILD, "backend": "tensorrt", "sms": [90], "engines": []})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    return tmp_path / "cache" / "plugins"


def write_library(path: Path, sms: Sequence[int] = (90,), sources: str | None = None) -> Path:
    """A file with a library's description; nothing here loads it."""
    here = hash_of_sources(source_directory()) if sources is None else sources
    info = {
        "key": path.parent.name, "sources": here, "operators": list(OPERATORS), "sms": list(sms),
        "headers": "own", "nvcc": "13.0.88",
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x7fELF code " + INFO_MARKER + json.dumps(info).encode() + b"\0 more code")
    return path


def test_a_library_is_described_without_being_loaded(tmp_path: Path) -> None:
    library = library_from_path(write_library(tmp_path / "x" / LIBRARY_FILE, (80, 90)))
    assert (library.key, library.sms, library.operators) == ("x", (80, 90), tuple(OPERATORS))
    assert library.as_manifest()["sha256"] == library.sha256


ODD: list[dict[str, Any]] = [
    {"operators": 1}, {"operators": [1]}, {"sms": 1}, {"sms": ["x"]}, {"sms": [[]]}, {"sms": [float("inf")]},
    {"sms": [True]}, {"sms": [-90]},
]  # fmt: skip


def described(**changes: Any) -> bytes:
    """A library's description, and nothing else."""
    info = dict.fromkeys(sorted(INFO_KEYS), "") | {"operators": [], "sms": [90], **changes}
    return INFO_MARKER + json.dumps(info).encode() + b"\0"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x7fELF of something else",
        INFO_MARKER,
        INFO_MARKER + b"[]\0",
        INFO_MARKER + b'{"key": "x"}\0',
        INFO_MARKER + b"[" * 3000 + b"\0",
        INFO_MARKER + b" " * 100_000 + b"\0",
        *(described(**odd) for odd in ODD),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / LIBRARY_FILE
    path.write_bytes(content)
    with pytest.raises(BuildError, match="Not a plugin library"):
        library_from_path(path)
    with pytest.raises(BuildError, match="No such file"):
        library_from_path(tmp_path / "absent.so")


def test_the_package_has_the_sources_of_the_checkout() -> None:
    assert source_directory() == Path(__file__).resolve().parents[2] / "plugins"


def test_nothing_is_found_where_nothing_was_built() -> None:
    assert find_library() is None


def test_the_newest_library_with_code_for_the_gpus_is_found(cache: Path) -> None:
    import os

    for age, (name, sms) in enumerate({"new": (80, 86), "old": (80, 86, 90, 100)}.items()):
        path = write_library(cache / name / LIBRARY_FILE, sms)
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    write_library(cache / ".half.tmp-1" / LIBRARY_FILE)
    write_library(cache / "stale" / LIBRARY_FILE, sources="other")
    (cache / "damaged").mkdir()
    (cache / "damaged" / LIBRARY_FILE).write_bytes(b"\x7fELF")

    def key(*sms: int) -> str | None:
        library = find_library(*sms)
        return None if library is None else library.key

    assert key() == "new" and key(80) == "new" and key(89) == "new"
    assert key(90) == "old" and key(80, 90) == "old" and key(103) == "old"
    assert key(120) is None and key(90, 120) is None and key(75) is None


def test_a_named_library_must_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    write_library(cache / "good" / LIBRARY_FILE, (89,))
    named = write_library(tmp_path / "named" / LIBRARY_FILE, (90,), sources="other")
    monkeypatch.setenv(LIBRARY_VARIABLE, str(named))
    found = find_library(90)
    assert found is not None and found.path == named
    with pytest.raises(BuildError, match="no code for the GPU") as caught:
        find_library(89)
    assert caught.value.details["where"] == f"{LIBRARY_VARIABLE}={named}"


# ------------------------------------------------------------------ in a build


def test_a_build_takes_the_library_that_is_there(cache: Path, tmp_path: Path) -> None:
    path = write_library(cache / "x" / LIBRARY_FILE)
    plugins = plugins_for_build(BuildConfig(), "tensorrt", [90], needed=True, required=True)
    assert plugins.library is not None and plugins.library.path == path
    manifest = plugins.put_beside_engine(tmp_path, UNFINISHED)
    assert (tmp_path / LIBRARY_FILE).read_bytes() == path.read_bytes()
    assert manifest.plugin_libraries == (LIBRARY_FILE,) and manifest.plugins is not None
    assert manifest.plugins.sha256 == library_from_path(path).sha256
    assert (manifest.plugins.operators, manifest.plugins.embedded) == (tuple(OPERATORS), False)


def test_an_embedded_library_is_not_to_be_loaded(cache: Path, tmp_path: Path) -> None:
    write_library(cache / "x" / LIBRARY_FILE)
    plugins = plugins_for_build(BuildConfig(embed_plugins=True), "tensorrt", [90], needed=True, required=True)
    manifest = plugins.put_beside_engine(tmp_path, UNFINISHED)
    assert (manifest.plugin_libraries, manifest.embeds_plugins) == ((), True)


def test_a_build_here_and_now_needs_a_library() -> None:
    assert plugins_for_build(BuildConfig(), "tensorrt", [90], needed=True, required=False) == BuildPlugins()
    with pytest.raises(UnavailableError, match="none was built") as caught:
        plugins_for_build(BuildConfig(), "tensorrt", [90], needed=True, required=True)
    assert "r1trt plugins build" in caught.value.details["fix"]


def test_a_named_library_must_have_the_code(tmp_path: Path) -> None:
    path = write_library(tmp_path / LIBRARY_FILE, (89,))
    with pytest.raises(BuildError, match="no code for the GPU"):
        plugins_for_build(BuildConfig(plugin_library=path), "tensorrt", [90], needed=True, required=False)


@pytest.mark.parametrize("backend", ["tensorrt-rtx", "onnxruntime"])
def test_only_tensorrt_takes_plugins(tmp_path: Path, backend: str) -> None:
    assert plugins_for_build(BuildConfig(), backend, [89], needed=True, required=True) == BuildPlugins()
    for config in (BuildConfig(embed_plugins=True), BuildConfig(plugin_library=tmp_path / LIBRARY_FILE)):
        with pytest.raises(ConfigError, match="are for the builder tensorrt"):
            plugins_for_build(config, backend, [89], needed=True, required=True)


def test_an_unfinished_build_keeps_its_library(cache: Path, tmp_path: Path) -> None:
    write_library(cache / "x" / LIBRARY_FILE)
    first = plugins_for_build(BuildConfig(embed_plugins=True), "tensorrt", [90], needed=True, required=False)
    build = BuildArtifact(path=tmp_path, manifest=first.put_beside_engine(tmp_path, UNFINISHED))
    later = plugins_of_unfinished(BuildConfig(), build)
    assert later.embed and later.library is not None and later.library.path == tmp_path / LIBRARY_FILE

    other = write_library(tmp_path / "other" / LIBRARY_FILE, (80, 90))
    named = plugins_of_unfinished(BuildConfig(plugin_library=other), build)
    assert named.library is not None and named.library.path == other

    write_library(tmp_path / LIBRARY_FILE, (90, 100))
    with pytest.raises(BuildError, match="library of the unfinished build changed"):
        plugins_of_unfinished(BuildConfig(), build)
