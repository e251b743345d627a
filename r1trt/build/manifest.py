"""The manifest of a build directory: what it was made from, what it accepts, and what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from r1trt import __version__
from r1trt.arch import ARCHITECTURES
from r1trt.artifacts.store import MANIFEST_FILE, read_manifest, sha256_of_file
from r1trt.build.builder_api import BUILDER_APIS
from r1trt.build.config import BuildTarget
from r1trt.build.profile import BuildLimits
from r1trt.errors import ConfigError
from r1trt.export.io import ExportedModel
from r1trt.precision.plan import PLAN_KINDS, PrecisionPlan

COMPLETE, NEEDS_ENGINE = "complete", "needs-engine"
_LIBRARIES = ("onnx", "onnx-ir", "onnxruntime")


def engine_file(sm: int) -> str:
    """Name of an engine in its build directory."""
    return f"engine.sm{sm}.plan"


def versions(backend: str) -> dict[str, str]:
    """Versions of this package and of the libraries that a build goes through."""
    packages = [*_LIBRARIES, *([BUILDER_APIS[backend].package] if backend in BUILDER_APIS else [])]
    found = {"r1trt": __version__}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def file_entry(path: Path) -> dict[str, Any]:
    """Name, hash and size of a file in a build directory."""
    return {"file": path.name, "sha256": sha256_of_file(path), "bytes": path.stat().st_size}


def manifest_of_build(
    export: ExportedModel, target: BuildTarget, limits: BuildLimits, plan: PrecisionPlan
) -> dict[str, Any]:
    """Everything but what the builder adds: `engines`, `network_check`, `status`."""
    capacity = limits.capacity
    return {
        "kind": "engine",
        "status": NEEDS_ENGINE,
        "arch": target.arch.name,
        "sms": list(target.sms),
        "backend": target.backend,
        "precision": target.precision,
        "capacity": capacity,
        "cache": capacity is not None,
        "max_batch_size": limits.max_batch_size,
        "max_input_len": limits.max_input_len,
        "last_token_logits": bool(export.manifest.get("last_token_logits", False)),
        "engines": [],
        "source": {
            "model_name": export.manifest["model_name"],
            "checkpoint": export.manifest["checkpoint"],
            "export": str(export.path.resolve()),
            "model_hash": plan.model_hash,
            "model_sha256": sha256_of_file(export.path / "model.onnx"),
            "weights": export.manifest["weights"]["files"],
        },
        "versions": versions(target.backend),
        "precision_summary": precision_summary(plan),
        "files": [],
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def manifest_of_unfinished(directory: Path) -> dict[str, Any]:
    """The manifest of a build that may lack its engine, checked: its directory may come from anywhere.

    Raises:
        ArtifactError: The directory is no build.
        ConfigError: Lists each entry that no build writes.
    """
    manifest = read_manifest(directory, "engine")
    known: dict[str, Callable[[Any], bool]] = {
        "status": lambda value: value in (COMPLETE, NEEDS_ENGINE),
        "arch": lambda value: isinstance(value, str) and value in ARCHITECTURES,
        "precision": lambda value: value in PLAN_KINDS,
        "backend": lambda value: value == "onnxruntime" or (isinstance(value, str) and value in BUILDER_APIS),
        "sms": lambda value: isinstance(value, list) and all(type(sm) is int for sm in value),
        "files": lambda value: isinstance(value, list) and all(map(_is_file_entry, value)),
    }
    wrong = [
        f"{name}: {manifest.get(name)!r}"[:200]
        for name, good in known.items()
        if not good(manifest.get(name))
    ]
    if wrong:
        raise ConfigError(
            "The manifest of a build is not valid.",
            where=directory / MANIFEST_FILE,
            found="; ".join(wrong),
            fix="copy the build again, or build from the export",
        )
    return manifest


def _is_file_entry(entry: object) -> bool:
    """A file of the directory itself: a plain name."""
    if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
        return False
    name: str = entry["file"]
    return Path(name).name == name


def precision_summary(plan: PrecisionPlan) -> dict[str, int]:
    """Number of layers with weights, by the weights' type."""
    counts = Counter(layer.weight for layer in plan.layers.values() if layer.weight is not None)
    return {str(name): counts[name] for name in sorted(counts)}


def completed(
    manifest: Mapping[str, Any], engines: Sequence[Mapping[str, Any]], network_check: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest with its engines."""
    return {
        **manifest,
        "status": COMPLETE,
        "engines": list(engines),
        "network_check": dict(network_check),
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
