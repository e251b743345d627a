"""The result of a validation, which lies beside the artifact that it speaks of and changes nothing in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from r1trt.artifacts.disk import replace_file, sha256_of_file
from r1trt.artifacts.documents import document_from_file
from r1trt.artifacts.fields import Check, Size
from r1trt.artifacts.manifest import MANIFEST_FILE, json_text

SCHEMA = 1
_Schema = Annotated[int, Check(expected=str(SCHEMA), holds=lambda schema: bool(schema == SCHEMA))]


@dataclass(frozen=True, kw_only=True)
class ValidationSummary:
    """The few figures that say most; a figure that is not a finite number is None.

    Attributes:
        passed: Whether every figure is within its limit.
        created: Time, in UTC.
        reference: Stage that is held to be right.
        tested: Stage that was compared with it.
        tokens: Tokens that were compared.
        kl_mean: Kullback-Leibler divergence of the next token's distribution, in nats.
        agreement: Share of tokens where both rank the same token first.
        perplexity_reference: Of the reference.
        perplexity_tested: Of the tested stage.
        perplexity_increase: Relative.
        not_executed: Stages that were not run, and why.
    """

    passed: bool
    created: str
    reference: str
    tested: str
    tokens: Size
    kl_mean: float | None
    agreement: float | None
    perplexity_reference: float | None
    perplexity_tested: float | None
    perplexity_increase: float | None
    not_executed: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ValidationDocument:
    """What is read of validation.json; the rest is for people and other programs.

    Attributes:
        schema: Version of the document.
        manifest_sha256: Hash of the manifest that the result speaks of, in hex.
        summary: The few figures that say most.
    """

    schema: _Schema
    manifest_sha256: str
    summary: ValidationSummary


@dataclass(frozen=True, kw_only=True)
class ValidationDirectory:
    """Names of a validation's files.

    Attributes:
        path: Directory of the artifact that was validated.
    """

    path: Path

    @property
    def figures(self) -> Path:
        """Everything that was measured, as JSON."""
        return self.path / "validation.json"

    @property
    def page(self) -> Path:
        """The same for people."""
        return self.path / "report.html"


@dataclass(frozen=True, kw_only=True)
class ValidationArtifact(ValidationDirectory):
    """A result that is there.

    Attributes:
        document: What is read of it.
    """

    document: ValidationDocument

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Reads the result that lies in an artifact's directory.

        Returns:
            The result; None where there is none.

        Raises:
            ArtifactError: The file is damaged, or of another version.
        """
        file = ValidationDirectory(path=path).figures
        if not file.exists():
            return None
        document = document_from_file(ValidationDocument, file, fix="run `r1trt validate` again")
        return cls(path=path, document=document)

    @property
    def is_current(self) -> bool:
        """Whether it speaks of the artifact as it is now."""
        return self.document.manifest_sha256 == sha256_of_file(self.path / MANIFEST_FILE)


def write_validation(
    directory: Path, summary: ValidationSummary, figures: Mapping[str, Any], page: str
) -> ValidationDirectory:
    """Writes a result beside the artifact that it speaks of: each file at once, the figures last.

    Args:
        directory: The artifact's directory, with its manifest.
        summary: The few figures that say most.
        figures: Everything else that goes into validation.json; finite.
        page: The page for people, HTML.
    """
    files = ValidationDirectory(path=directory)
    head = {"schema": SCHEMA, "manifest_sha256": sha256_of_file(directory / MANIFEST_FILE)}
    replace_file(files.page, page)
    replace_file(files.figures, json_text({**head, "summary": asdict(summary), **figures}))
    return files
