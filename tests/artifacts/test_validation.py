"""The result of a validation beside the artifact that it speaks of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typical_manifests import BUILD

from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.manifest import MANIFEST_FILE, write_manifest
from r1trt.artifacts.validation import SCHEMA, ValidationArtifact, ValidationSummary, write_validation

SUMMARY = ValidationSummary(
    passed=True,
    created="2026-11-26T03:24:16+00:00",
    reference="checkpoint",
    tested="typed",
    tokens=2048,
    kl_mean=0.037,
    agreement=0.89,
    perplexity_reference=40.0,
    perplexity_tested=None,
    perplexity_increase=None,
    not_executed={"engine": "no GPU"},
)


def test_it_changes_nothing_and_is_read_back(tmp_path: Path) -> None:
    write_manifest(tmp_path, BUILD)
    before = (tmp_path / MANIFEST_FILE).read_bytes()
    files = write_validation(tmp_path, SUMMARY, {"stages": ["checkpoint", "typed"]}, "<html>")
    assert (tmp_path / MANIFEST_FILE).read_bytes() == before
    assert files.page.read_text() == "<html>"
    assert json.loads(files.figures.read_text())["stages"] == ["checkpoint", "typed"]
    validation = ValidationArtifact.read(tmp_path)
    assert validation is not None and validation.document.summary == SUMMARY and validation.is_current
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json",
        "report.html",
        "validation.json",
    ]


def test_it_speaks_of_one_manifest(tmp_path: Path) -> None:
    write_manifest(tmp_path, BUILD)
    assert ValidationArtifact.read(tmp_path) is None
    write_validation(tmp_path, SUMMARY, {}, "")
    write_manifest(tmp_path, {**BUILD, "precision": "bf16"})
    validation = ValidationArtifact.read(tmp_path)
    assert validation is not None and not validation.is_current


@pytest.mark.parametrize(
    "document", [[], {}, {"schema": 1, "passed": True}, {"schema": 1, "summary": 5}, None]
)
def test_a_damaged_one_is_refused(tmp_path: Path, document: Any) -> None:
    (tmp_path / "validation.json").write_text(json.dumps(document) if document is not None else "{")
    with pytest.raises(ArtifactError) as caught:
        ValidationArtifact.read(tmp_path)
    assert caught.value.details["where"] == str(tmp_path / "validation.json")


@pytest.mark.parametrize("schema", [SCHEMA + 1, SCHEMA - 1, True, float(SCHEMA), str(SCHEMA), None], ids=repr)
def test_another_schema_is_refused(tmp_path: Path, schema: Any) -> None:
    write_manifest(tmp_path, BUILD)
    figures = write_validation(tmp_path, SUMMARY, {}, "").figures
    figures.write_text(json.dumps({**json.loads(figures.read_text()), "schema": schema}))
    with pytest.raises(ArtifactError, match="of another version") as caught:
        ValidationArtifact.read(tmp_path)
    assert f"schema: {schema!r}, expected" in caught.value.details["found"]
