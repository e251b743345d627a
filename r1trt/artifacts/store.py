"""Writing and reading of artifacts under one name."""

from r1trt.artifacts.atomic import atomic_directory
from r1trt.artifacts.disk import copy_file, require_free_space, sha256_of_file
from r1trt.artifacts.errors import ArtifactError, DiskFullError
from r1trt.artifacts.manifest import MANIFEST_FILE, Kind, read_manifest, write_manifest

__all__ = [
    "MANIFEST_FILE",
    "ArtifactError",
    "DiskFullError",
    "Kind",
    "atomic_directory",
    "copy_file",
    "read_manifest",
    "require_free_space",
    "sha256_of_file",
    "write_manifest",
]
