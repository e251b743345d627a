"""The conditions of a validation, for the report's reader."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from r1trt import __version__
from r1trt.artifacts import BuildArtifact
from r1trt.evaluate.windows import Window
from r1trt.validate.config import ValidateConfig
from r1trt.validate.sources import Sources


def facts_of_validation(
    config: ValidateConfig, sources: Sources, windows: Sequence[Window]
) -> dict[str, str]:
    """What was validated, on what text, with which versions and machine; what is unknown is left out."""
    tokens = sum(len(window.input_ids) for window in windows)
    longest = max(len(window.input_ids) for window in windows)
    text = str(config.prompts) if config.prompts else "held-out text of the package"
    facts = {
        **_artifact_facts(sources),
        "text": f"{text}: {tokens} tokens in {len(windows)} windows of at most {longest}",
        "checkpoint": str(sources.checkpoint or ""),
        "versions": ", ".join(
            f"{name} {_version(name)}" for name in ("onnxruntime", "torch", "transformers")
        ),
        "r1trt": __version__,
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    return {name: value for name, value in facts.items() if value}


def _artifact_facts(sources: Sources) -> dict[str, str]:
    if not isinstance(sources.artifact, BuildArtifact):
        return {"architecture": "export, FP32"}
    manifest = sources.artifact.manifest
    return {
        "architecture": manifest.arch,
        "precision": manifest.precision,
        "builder": manifest.backend,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        # For instance onnxruntime-gpu, which is imported as onnxruntime.
        return "of another distribution"
