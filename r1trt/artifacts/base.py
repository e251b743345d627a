"""What the manifests of all kinds have in common: checked reading, and writing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.fields import InvalidFieldsError, from_json
from r1trt.artifacts.manifest import MANIFEST_FILE, Kind, read_manifest, write_manifest
from r1trt.text import listing

_TITLES: dict[Kind, str] = {"export": "an export", "engine": "a build", "triton": "a model repository"}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest; its fields are the keys in the file."""

    KIND: ClassVar[Kind]

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Reads and checks the manifest of a directory.

        Raises:
            ArtifactError: There is none, it is of another kind, or a key is missing or wrong; lists the keys.
        """
        return cls.from_document(read_manifest(directory, cls.KIND), directory)

    @classmethod
    def from_document(cls, document: dict[str, Any], directory: Path) -> Self:
        """Checks a manifest that was read already.

        Args:
            document: What `read_manifest` returned.
            directory: Where it was read.

        Raises:
            ArtifactError: A key is missing or wrong; lists the keys.
        """
        try:
            return from_json(cls, document)
        except InvalidFieldsError as error:
            raise ArtifactError(
                f"The manifest of {_TITLES[cls.KIND]} is not valid.",
                where=directory / MANIFEST_FILE,
                found=listing(error.problems),
                fix="make it again, or copy it again from where it was made",
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Plain values, "kind" first."""
        return {"kind": self.KIND, **asdict(self)}

    def write(self, directory: Path) -> None:
        """Writes the manifest into a directory."""
        write_manifest(directory, self.to_json())
