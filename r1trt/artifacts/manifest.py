"""A manifest as JSON: read with every limit checked before anything looks into it, and written.

What the keys mean is known to the typed classes (`ExportManifest`, `BuildManifest`, `RepositoryManifest`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from r1trt.artifacts.disk import replace_file
from r1trt.artifacts.errors import ArtifactError
from r1trt.files import DOCUMENT_BYTES, bytes_of_file, require_unicode_path

Kind = Literal["export", "engine", "triton"]

MANIFEST_FILE = "manifest.json"
SCHEMA = 1
MAX_DEPTH = 32


def read_manifest(directory: Path, kind: Kind | None = None) -> dict[str, Any]:
    """Reads the manifest of an artifact.

    Args:
        directory: An artifact's directory.
        kind: The kind it must be of; None accepts every kind.

    Returns:
        The manifest; its "schema" and "kind" are checked, and all of it is finite, shallow Unicode.

    Raises:
        ArtifactError: There is no manifest, it is malformed, or of another schema or kind.
    """
    require_unicode_path(directory, ArtifactError)
    path = directory / MANIFEST_FILE
    manifest = json_from_file(path, kind)
    schema, found = (
        (manifest.get("schema"), manifest.get("kind")) if isinstance(manifest, dict) else (None, None)
    )
    if found not in get_args(Kind) or type(schema) is not int or schema != SCHEMA:
        raise ArtifactError(
            "manifest is malformed or of another version",
            where=path,
            found=f"schema {schema!r}, kind {found!r}"[:200],
            expected=f"schema {SCHEMA}, kind {' | '.join(get_args(Kind))}",
            fix="make the artifact again with this version of r1trt",
        )
    if kind is not None and found != kind:
        raise ArtifactError("artifact is of another kind", where=directory, found=found, expected=kind)
    assert isinstance(manifest, dict)
    require_plain(manifest, path)
    return manifest


def write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Writes an artifact's manifest.json, "schema" first.

    Args:
        directory: The artifact's directory.
        manifest: Its entries; "kind" is among them.

    Raises:
        ArtifactError: The kind is unknown.
    """
    if manifest.get("kind") not in get_args(Kind):
        expected = " | ".join(get_args(Kind))
        raise ArtifactError("manifest has no kind", found=manifest.get("kind"), expected=expected)
    # Replaced and not written through: the file may be a link to that of another directory.
    replace_file(directory / MANIFEST_FILE, json_text({"schema": SCHEMA, **manifest}))


def json_text(value: Mapping[str, Any]) -> str:
    """A document as every file of an artifact spells it."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def json_from_file(path: Path, kind: str | None = None) -> Any:
    """Any JSON file of an artifact.

    Args:
        path: The file.
        kind: What it belongs to, for the error's text.

    Raises:
        ArtifactError: It is missing, not a regular file, too large, or not JSON.
    """
    try:
        return json.loads(bytes_of_file(path, limit=DOCUMENT_BYTES, error=ArtifactError).decode("utf-8"))
    except (ArtifactError, ValueError, RecursionError) as error:
        found = error.details["found"] if isinstance(error, ArtifactError) else error
        raise ArtifactError(
            "directory is not an r1trt artifact",
            where=path,
            found=found,
            expected=f"the {path.name} of an artifact" + (f" of kind {kind}" if kind else ""),
            fix=_fix(path.parent),
        ) from error


def _fix(directory: Path) -> str:
    if any(directory.glob("*.safetensors")) and (directory / "config.json").is_file():
        return f"this looks like a checkpoint: export it with `r1trt export {shlex.quote(str(directory))}`"
    return "name the output directory of an earlier r1trt command"


def require_plain(manifest: Mapping[str, Any], path: Path) -> None:
    """Refuses what JSON can spell and nothing can use: NaN, text that is not Unicode, nesting without end.

    Args:
        manifest: A document.
        path: Where it was read.

    Raises:
        ArtifactError: Names the key.
    """
    for key, value in manifest.items():
        try:
            json.dumps([key, value], ensure_ascii=False, allow_nan=False).encode("utf-8")
            if _depth(value) > MAX_DEPTH:
                raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
        except (ValueError, RecursionError) as error:
            raise ArtifactError(
                "A value in the file is not one that JSON documents can hold.",
                where=path,
                found=f"{ascii(key)[:100]}: {error}",
                expected="finite numbers and Unicode text",
                fix="make the artifact again",
            ) from error


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [
            item for nested in level for item in (nested.values() if isinstance(nested, dict) else nested)
        ]
    return depth
