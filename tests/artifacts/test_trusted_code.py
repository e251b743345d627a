"""Directories from elsewhere are data: their code runs only when asked, and their links copy nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_engine import PLUGIN_GRAPH, TENSORRT, write_engine

from r1trt.artifacts import BuildArtifact
from r1trt.artifacts.directory import ModelDirectory
from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.trusted_code import (
    UntrustedCodeError,
    record_trusted_code,
    require_trusted_build,
    require_trusted_code,
)
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.cache import CACHE_VARIABLE
from r1trt.errors import R1TrtError
from r1trt.package.repository import TritonConfig, repository_from_engine
from r1trt.plugin_tools.library import INFO_KEYS, LIBRARY_FILE
from r1trt.runtime.load import session_from_engine

SOURCE = """
#include <stdio.h>
static const char info[] __attribute__((used)) = "R1TRT_PLUGINS_INFO:" INFO;
__attribute__((constructor)) static void run(void) {
  FILE* f = fopen(PATH, "w");
  fputs("ran", f);
  fclose(f);
}
"""
INFO: dict[str, Any] = dict.fromkeys(INFO_KEYS, "") | {
    "operators": ["R1DynamicRoPE", "R1HLAAttention", "R1DynamicMoE"],
    "sms": [89, 90],
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def hostile_library(path: Path, witness: Path) -> Path:
    """A plugin library by its description, which leaves a file where it is loaded."""
    source = path.with_suffix(".c")
    source.write_text(SOURCE)
    defines = [f"-DINFO={json.dumps(json.dumps(INFO))}", f"-DPATH={json.dumps(str(witness))}"]
    subprocess.run(["gcc", "-shared", "-fPIC", *defines, source, "-o", path], check=True)
    return path


def with_library(build: Path, witness: Path, **changes: Any) -> Path:
    """A build that names a library which lies in it."""
    library = hostile_library(build / LIBRARY_FILE, witness)
    manifest = json.loads((build / "manifest.json").read_text())
    sha256 = hashlib.sha256(library.read_bytes()).hexdigest()
    manifest |= {"plugins": {**INFO, "file": LIBRARY_FILE, "sha256": sha256, "embedded": False}, **changes}
    (build / "manifest.json").write_text(json.dumps(manifest))
    return build


def test_code_is_known_by_its_hash(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.write_bytes(b"code")
    with pytest.raises(UntrustedCodeError, match="this machine did not make it") as caught:
        require_trusted_code(code, trusted=False)
    sha256 = hashlib.sha256(b"code").hexdigest()
    assert sha256 in str(caught.value) and "--trust-plugins" in str(caught.value)
    require_trusted_code(code, trusted=True)
    record_trusted_code(sha256)
    record_trusted_code(sha256)
    require_trusted_code(code, trusted=False)
    assert (tmp_path / "cache" / "trusted-code").read_text() == f"{sha256}\n"
    code.write_bytes(b"other code")
    with pytest.raises(UntrustedCodeError):
        require_trusted_code(code, trusted=False)


def test_an_engine_that_carries_code(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "engine", **TENSORRT)
    build = BuildArtifact.read(engine)
    require_trusted_build(build, trusted=False)
    with_library(engine, tmp_path / "witness")
    manifest = json.loads((engine / "manifest.json").read_text())
    manifest["plugins"]["embedded"] = True
    (engine / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UntrustedCodeError, match=manifest["engines"][0]["file"]):
        require_trusted_build(BuildArtifact.read(engine), trusted=False)


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_no_command_runs_a_foreign_library(backend: str, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    engine = write_engine(tmp_path / "engine", **{**TENSORRT, "backend": backend})
    with_library(engine, witness, plugin_libraries=[LIBRARY_FILE])
    with pytest.raises(UntrustedCodeError, match=LIBRARY_FILE):
        session_from_engine(engine)
    assert not witness.exists()


def test_finishing_a_build_runs_no_foreign_library(tmp_path: Path) -> None:
    """The builder for other GPUs takes no plugins, whatever a manifest says."""
    witness = tmp_path / "witness"
    changes: dict[str, Any] = {"status": "needs-engine", "engines": []}
    engine = write_engine(tmp_path / "engine", **TENSORRT)
    with_library(engine, witness, **changes, backend="tensorrt-rtx", arch="ada", sms=[89], precision="fp8")
    with pytest.raises(R1TrtError):  # its graph is not a build's
        build_engine(BuildConfig(model=engine, output=tmp_path / "finished"))
    assert not witness.exists()


def test_a_repository_takes_no_foreign_library(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "engine", graph=PLUGIN_GRAPH, **TENSORRT)
    with_library(engine, tmp_path / "witness", plugin_libraries=[LIBRARY_FILE])
    config = TritonConfig(engines=(engine,), output=tmp_path / "repository")
    with pytest.raises(UntrustedCodeError, match=LIBRARY_FILE):
        repository_from_engine(config)
    assert not (tmp_path / "repository").exists()
    repository_from_engine(replace(config, trust_plugins=True))
    assert not (tmp_path / "witness").exists()


@pytest.fixture
def checkpoint(tmp_path: Path) -> ModelDirectory:
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    return ModelDirectory(path=directory)


def test_a_link_to_another_file_is_not_copied(checkpoint: ModelDirectory, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    checkpoint.chat_template.symlink_to(tmp_path / "secret")
    (tmp_path / "copy").mkdir()
    with pytest.raises(ArtifactError, match="would be copied") as caught:
        checkpoint.copy_companions_to(tmp_path / "copy")
    assert f"a link to {tmp_path / 'secret'}" in str(caught.value)
    assert not list((tmp_path / "copy").iterdir())


def test_files_that_people_link_are_copied(checkpoint: ModelDirectory, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_text("{}")
    checkpoint.tokenizer.symlink_to(other / "tokenizer.json")
    (checkpoint.path / "template").write_text("{{ messages }}")
    checkpoint.chat_template.symlink_to("template")
    (tmp_path / "copy").mkdir()
    checkpoint.copy_companions_to(tmp_path / "copy")
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert names == {"config.json", "tokenizer.json", "chat_template.jinja"}


def test_hugging_faces_cache_is_read(checkpoint: ModelDirectory, tmp_path: Path) -> None:
    repository = tmp_path / "models--a--b"
    (repository / "blobs").mkdir(parents=True)
    shutil.copy(checkpoint.config, repository / "blobs" / "0123")
    snapshot = repository / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/0123")
    assert ModelDirectory(path=snapshot).companions == (snapshot / "config.json",)
