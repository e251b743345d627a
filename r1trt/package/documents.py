"""What a repository tells the one who runs it: README, client programs, a Dockerfile."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from r1trt.artifacts.repository import RepositoryModel, ServedModelDirectory
from r1trt.door.limits import DoorLimits
from r1trt.plugin_tools.library import LIBRARY_FILE
from r1trt.runtime.sampling_defaults import sampling_defaults_from_dir

CONTAINER = "nvcr.io/nvidia/tritonserver:26.10-py3"

# What the generation model imports; NumPy is in Triton's container, in the version that its server needs.
_REQUIREMENTS = ("jinja2>=3.1", "tokenizers>=0.22")
# What the front end for OpenAI's clients imports.
_FRONT_END_REQUIREMENTS = ("starlette>=1.0", "uvicorn>=0.54", "tritonclient[grpc]>=2.60")
_GPU_REQUIREMENTS = ("cuda-python>=13,<14",)

_GENERATION_FILES = ("Dockerfile", "client_http.py", "client_grpc.py", "client_curl.sh")
_SCORING_FILES = ("client_scoring.py",)


def write_documents(repository: Path, models: Sequence[RepositoryModel]) -> None:
    """Writes the documents into a repository.

    Args:
        repository: Where; the models are there already.
        models: Its models.
    """
    _write(repository, "README.md" if len(models) == 1 else "README.several.md", models)
    generating = [model for model in models if model.kind == "generation"]
    scoring = [model for model in models if model.kind == "scoring"]
    for files, kind in ((_GENERATION_FILES, generating), (_SCORING_FILES, scoring)):
        for file in files if kind else ():
            _write(repository, file, kind)
    if generating:
        (repository / "requirements.txt").write_text("\n".join(requirements_of(generating)) + "\n")
        # The image takes nothing else of the repository, whose engines may be large.
        (repository / ".dockerignore").write_text("*\n!requirements.txt\n")


def requirements_of(models: Sequence[RepositoryModel]) -> list[str]:
    """Packages that generation models and their front end import, as pip takes them."""
    engines = sorted({_library(model) for model in models})
    on_gpu = any(model.engine.backend != "onnxruntime" for model in models)
    return [*_REQUIREMENTS, *_FRONT_END_REQUIREMENTS, *(_GPU_REQUIREMENTS if on_gpu else ()), *engines]


def _library(model: RepositoryModel) -> str:
    if model.engine.backend == "onnxruntime":
        return f"{model.library}>=1.32"
    return model.library + (f"=={model.library_version}" if model.library_version else "")


def _write(repository: Path, file: str, models: Sequence[RepositoryModel]) -> None:
    """Renders one document; those of one model are of the first."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )
    source = resources.files("r1trt.package").joinpath(f"{file}.jinja").read_text(encoding="utf-8")
    text = environment.from_string(source).render(
        models=models,
        container=CONTAINER,
        plugin_file=LIBRARY_FILE,
        body_bytes=max(DoorLimits.for_capacity(model.engine.capacity or 0).body_bytes for model in models),
        **_of_first(repository, models[0]),
    )
    (repository / file.replace(".several", "")).write_text(text, encoding="utf-8")


def _of_first(repository: Path, model: RepositoryModel) -> dict[str, Any]:
    directory = ServedModelDirectory(path=repository / model.name)
    generates = model.kind == "generation"
    return {
        "name": model.name,
        "model": model,
        "engine": model.engine,
        "brings_plugins": (directory.engine / LIBRARY_FILE).is_file(),
        "sampling": sampling_defaults_from_dir(directory.engine if generates else directory.tokenizer),
    }
