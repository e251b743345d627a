"""Typed manifests: what is written is read back, and nothing else gets in."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hostile_documents import mutants
from typical_manifests import BUILD, EXPORT, KINDS, REPOSITORY

from r1trt.artifacts import BuildArtifact, ExportArtifact, RepositoryArtifact, read_artifact
from r1trt.artifacts.base import Manifest
from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.manifest import MANIFEST_FILE, read_manifest, write_manifest
from r1trt.files import DOCUMENT_BYTES

SEED = 8


def write_raw(directory: Path, document: Any) -> None:
    text = json.dumps({"schema": 1, **document})
    (directory / MANIFEST_FILE).write_text(text)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_written_is_read_back(kind: type[Manifest], tmp_path: Path) -> None:
    write_manifest(tmp_path, KINDS[kind])
    before = (tmp_path / MANIFEST_FILE).read_text()
    manifest = kind.read(tmp_path)
    manifest.write(tmp_path)
    assert (tmp_path / MANIFEST_FILE).read_text() == before
    assert kind.read(tmp_path) == manifest == read_artifact(tmp_path).manifest


def test_keys_of_another_version_are_left_alone(tmp_path: Path) -> None:
    write_manifest(tmp_path, {**BUILD, "validation": {"passed": True}, "from the future": [1]})
    assert BuildArtifact.read(tmp_path).manifest.arch == "ada"


def test_what_older_versions_did_not_write_has_a_default(tmp_path: Path) -> None:
    newer = (
        *("last_token_logits", "kv_cache_token_bytes", "plan_sha256", "plugins", "plugin_libraries"),
        *("files", "network_check"),
    )
    write_manifest(tmp_path, {key: value for key, value in BUILD.items() if key not in newer})
    manifest = BuildArtifact.read(tmp_path).manifest
    assert (manifest.plugins, manifest.plugin_libraries, manifest.embeds_plugins) == (None, (), False)


def test_an_error_names_the_file_and_each_key(tmp_path: Path) -> None:
    write_raw(tmp_path, {**BUILD, "sms": ["89"], "max_batch_size": True, "files": [{"file": "../x"}]})
    with pytest.raises(ArtifactError, match="manifest of a build is not valid") as caught:
        read_artifact(tmp_path)
    assert caught.value.details["where"] == str(tmp_path / MANIFEST_FILE)
    for key in ("sms[0]: '89'", "max_batch_size: True", "files[0].file: '../x'"):
        assert key in caught.value.details["found"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"capacity": None}, "capacity"),
        ({"backend": "onnxruntime"}, "engines"),
        ({"engines": [{"file": "cpu.onnx", "sm": None}]}, "engines"),
    ],
    ids=str,
)
def test_keys_that_contradict_each_other(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    write_raw(tmp_path, BUILD | changes)
    with pytest.raises(ArtifactError, match=says):
        BuildArtifact.read(tmp_path)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_hostile_manifest_is_read_or_refused(kind: type[Manifest], tmp_path: Path) -> None:
    """Nothing but ArtifactError, and what is read is written again and printed."""
    document = KINDS[kind]
    picked = random.Random(SEED).sample(mutants(document), 400)
    refused = 0
    for case in picked:
        write_raw(tmp_path, case)
        try:
            artifact = read_artifact(tmp_path)
        except ArtifactError as error:
            str(error).encode("utf-8")
            assert error.details["where"] == str(tmp_path / MANIFEST_FILE)
            refused += 1
        else:
            repr(artifact).encode("utf-8")
            artifact.manifest.write(tmp_path)
            assert read_artifact(tmp_path) == artifact
    assert len(picked) / 3 < refused < len(picked)


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe{", b'{"schema": 1, "kind": "engine", "x": ' + b"[" * 100_000, b"", b"\0" * 99,
        b'{"schema": 1.0, "kind": "engine"}', b'{"schema": 1, "kind": "engine", "x": ' + b"1" * 5000 + b"}",
        b'{"schema": true, "kind": "engine"}', b'{"schema": 1, "kind": "engine", "x": 1e999}',
        b'{"schema": 1, "kind": "export", "\\ud800": 1}', b'{"schema": 1, "kind": "export", "x": NaN}',
    ],
    ids=lambda text: repr(text[:40]),
)  # fmt: skip
def test_what_json_spells_and_nothing_can_use(tmp_path: Path, text: bytes) -> None:
    (tmp_path / MANIFEST_FILE).write_bytes(text)
    with pytest.raises(ArtifactError) as caught:
        read_artifact(tmp_path)
    str(caught.value).encode("utf-8")


def test_no_regular_file_and_a_huge_one_are_not_read(tmp_path: Path) -> None:
    for name in ("pipe", "directory", "huge"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / MANIFEST_FILE)
    (tmp_path / "directory" / MANIFEST_FILE).mkdir()
    with (tmp_path / "huge" / MANIFEST_FILE).open("wb") as file:
        file.truncate(DOCUMENT_BYTES + 1)
    for name in ("pipe", "directory", "huge"):
        with pytest.raises(ArtifactError, match="not an r1trt artifact"):
            read_manifest(tmp_path / name)


def test_paths_of_an_artifact(tmp_path: Path) -> None:
    for name, document in (("export", EXPORT), ("build", BUILD), ("repository", REPOSITORY)):
        (tmp_path / name).mkdir()
        write_manifest(tmp_path / name, document)
    export = ExportArtifact.read(tmp_path / "export")
    assert export.graph == tmp_path / "export" / "model.onnx"
    assert export.weight_base == Path("/models/SmolLM2")
    build = BuildArtifact.read(tmp_path / "build")
    assert build.engines == {89: build.engine(89)} and build.engine(89).name == "engine.sm89.plan"
    assert isinstance(read_artifact(tmp_path / "repository"), RepositoryArtifact)


def test_companions_are_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_manifest(tmp_path, EXPORT)
    for name in ("config.json", "tokenizer.json", "unknown.json"):
        (tmp_path / name).write_text(name)
    export = ExportArtifact.read(tmp_path)
    export.copy_companions_to(tmp_path / "other")
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["config.json", "tokenizer.json"]
