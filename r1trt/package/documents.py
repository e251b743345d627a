"""What a repository tells the one who runs it: README, client programs, a Dockerfile."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import jinja2

from r1trt.door.limits import DoorLimits
from r1trt.package.bundle import EngineBundle
from r1trt.plugin_tools.library import LIBRARY_FILE
from r1trt.runtime.sampling_defaults import sampling_defaults_from_dir

CONTAINER = "nvcr.io/nvidia/tritonserver:26.10-py3"

# What the generation model imports; NumPy is in Triton's container, in the version that its server needs.
_REQUIREMENTS = ("jinja2>=3.1", "tokenizers>=0.22")
# What the front end for OpenAI's clients imports.
_FRONT_END_REQUIREMENTS = ("starlette>=1.0", "uvicorn>=0.54", "tritonclient[grpc]>=2.60")
_GPU_REQUIREMENTS = ("cuda-python>=13,<14",)

_GENERATION_FILES = ("README.md", "Dockerfile", "client_http.py", "client_grpc.py", "client_curl.sh")
_SCORING_FILES = ("README.md", "client_scoring.py")


def write_documents(repository: Path, name: str, bundle: EngineBundle) -> None:
    """Writes the documents into a repository.

    Args:
        repository: Where.
        name: The model's name.
        bundle: What is served.
    """
    generates = bundle.manifest.cache
    for file in _GENERATION_FILES if generates else _SCORING_FILES:
        (repository / file).write_text(_rendered(f"{file}.jinja", name, bundle), encoding="utf-8")
    if generates:
        (repository / "requirements.txt").write_text("\n".join(requirements_from_bundle(bundle)) + "\n")
        # The image takes nothing else of the repository, whose engine may be large.
        (repository / ".dockerignore").write_text("*\n!requirements.txt\n")


def requirements_from_bundle(bundle: EngineBundle) -> list[str]:
    """Packages that a generation model and its front end import, as pip takes them."""
    common = (*_REQUIREMENTS, *_FRONT_END_REQUIREMENTS)
    if bundle.manifest.backend == "onnxruntime":
        return [*common, f"{bundle.library}>=1.32"]
    exact = f"=={bundle.library_version}" if bundle.library_version else ""
    return [*common, *_GPU_REQUIREMENTS, f"{bundle.library}{exact}"]


def _rendered(file: str, name: str, bundle: EngineBundle) -> str:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )
    source = resources.files("r1trt.package").joinpath(file).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        name=name,
        manifest=bundle.manifest,
        bundle=bundle,
        container=CONTAINER,
        plugin_file=LIBRARY_FILE,
        sampling=sampling_defaults_from_dir(bundle.source.path),
        body_bytes=DoorLimits.for_capacity(bundle.manifest.capacity or 0).body_bytes,
    )
