"""What goes wrong with the directories that r1trt writes."""

from __future__ import annotations

from r1trt.errors import R1TrtError


class ArtifactError(R1TrtError):
    """An output directory cannot be written, or is not what it says."""


class DiskFullError(ArtifactError):
    """There is no room for the result."""
