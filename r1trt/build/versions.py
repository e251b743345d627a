"""Versions of what a build goes through."""

from __future__ import annotations

from importlib import metadata

from r1trt import __version__
from r1trt.arch import Backend
from r1trt.build.builder_api import BUILDER_APIS

_LIBRARIES = ("onnx", "onnx-ir", "onnxruntime")


def versions_of_build(backend: Backend) -> dict[str, str]:
    """Versions of this package and of the libraries that a build goes through, by distribution."""
    packages = [*_LIBRARIES, *([BUILDER_APIS[backend].library.package] if backend in BUILDER_APIS else [])]
    found = {"r1trt": __version__}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
