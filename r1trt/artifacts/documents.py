"""JSON files of an artifact beside its manifest, read into typed classes."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.fields import InvalidFieldsError, Schema, from_json
from r1trt.artifacts.manifest import json_from_file, require_plain
from r1trt.text import listing

T = TypeVar("T", bound=Schema)


def document_from_file(schema: type[T], path: Path, *, fix: str) -> T:
    """Reads a JSON file.

    Args:
        schema: Dataclass of the file.
        path: The file.
        fix: What to do if it is damaged.

    Raises:
        ArtifactError: It is missing, damaged, or of another version; lists the keys.
    """
    document = json_from_file(path)
    try:
        if isinstance(document, dict):
            require_plain(document, path)
        return from_json(schema, document)
    except InvalidFieldsError as error:
        raise ArtifactError(
            "This file of an artifact is damaged, or of another version.",
            where=path,
            found=listing(error.problems),
            fix=fix,
        ) from error
