"""A Triton model repository for an engine: everything that a server needs, and nothing of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from r1trt import __version__
from r1trt.artifacts.store import (
    atomic_directory,
    copy_file,
    read_manifest,
    require_free_space,
    sha256_of_file,
    write_manifest,
)
from r1trt.errors import ConfigError
from r1trt.package.bundle import EngineBundle, bundle_from_builds, require_library_version
from r1trt.package.generation import GenerationLimits, write_generation_model
from r1trt.package.scoring import require_loadable, write_scoring_model
from r1trt.package.triton_config import MODEL_NAME, check_model_directory
from r1trt.plugin_tools.library import LIBRARY_FILE

CONTAINER = "nvcr.io/nvidia/tritonserver:26.10-py3"

# What the generation model imports; NumPy is in Triton's container, in the version that its server needs.
_REQUIREMENTS = ("jinja2>=3.1", "tokenizers>=0.22")
_GPU_REQUIREMENTS = ("cuda-python>=13,<14",)

_GENERATION_FILES = ("README.md", "Dockerfile", "client_http.py", "client_grpc.py", "client_curl.sh")
_SCORING_FILES = ("README.md", "client_scoring.py")


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """What `repository_from_engine` makes.

    Attributes:
        engines: Build directories of one model; more than one where each is for other GPUs.
        output: Model repository to write; a repository that is there is replaced as a whole.
        model_name: Name that clients ask for; None takes the checkpoint's.
        trt_version: TensorRT version of the server that it is for; None trusts the reader of the README.
        plugin_library: TensorRT plugins; None takes those of the builds, or some that were built before.
        limits: How requests share an engine with a KV cache.
    """

    engines: tuple[Path, ...]
    output: Path
    model_name: str | None = None
    trt_version: str | None = None
    plugin_library: Path | None = None
    limits: GenerationLimits = field(default_factory=GenerationLimits)

    def __post_init__(self) -> None:
        """Raises ConfigError for a name that Triton does not accept, and where there is no engine."""
        if self.model_name is not None:
            require_model_name(self.model_name)
        if not self.engines:
            raise ConfigError("There is no engine to serve.")


def require_model_name(name: str) -> str:
    """Returns the name. Raises ConfigError where it cannot be a model's."""
    if not MODEL_NAME.fullmatch(name):
        raise ConfigError(
            "This cannot be the name of a Triton model.",
            found=name,
            expected="letters, digits, '.', '_' and '-'",
            fix="pass --model-name",
        )
    return name


def repository_from_engine(config: TritonConfig) -> Path:
    """Writes a model repository: configuration, engine, tokenizer, client programs, README and manifest.

    An engine with a KV cache becomes a model that generates text; one without becomes a stateless model that
    gives the logits of whole prompts.

    Returns:
        The repository's path, which is `config.output`.

    Raises:
        ArtifactError: A directory is not a build, or the output is something else's.
        BuildError: The engine is of a kind that no Triton backend loads, the server's TensorRT is another, or
            files or plugins are missing.
        ConfigError: The model's name cannot be a Triton model's, or a limit is beyond the engine's.
    """
    bundle = bundle_from_builds(config.engines, config.plugin_library)
    if config.trt_version is not None:
        require_library_version(bundle, config.trt_version)
    if not bundle.manifest["cache"]:
        require_loadable(bundle)
    name = require_model_name(config.model_name or str(bundle.manifest["source"]["model_name"]))
    _require_replaceable(config.output)
    require_free_space(config.output.parent, bundle.bytes)
    with atomic_directory(config.output, kind="triton") as repository:
        _write_model(repository / name, bundle, config.limits)
        check_model_directory(repository / name)
        _write_documents(repository, name, bundle)
        _write_manifest(repository, name, bundle)
    return config.output


def _require_replaceable(output: Path) -> None:
    """Refuses to put a repository in the place of an export or a build."""
    if output.is_dir() and any(output.iterdir()):
        read_manifest(output, "triton")


def _write_model(directory: Path, bundle: EngineBundle, limits: GenerationLimits) -> None:
    library = bundle.plugin_library
    if not bundle.manifest["cache"]:
        write_scoring_model(directory, bundle)
        if library is not None:
            # Outside of the model: the server loads it for all TensorRT models at its start.
            copy_file(library, directory.parent / LIBRARY_FILE)
        return
    engine = write_generation_model(directory, bundle.manifest, limits)
    engine.mkdir()
    for name, path in {**bundle.engine_files, **bundle.tokenizer_files}.items():
        copy_file(path, engine / name)
    if library is not None:
        copy_file(library, engine / LIBRARY_FILE)
    plugins = [] if library is None else [LIBRARY_FILE]
    write_manifest(engine, {**bundle.manifest, "plugin_libraries": plugins})


def requirements_from_bundle(bundle: EngineBundle) -> list[str]:
    """Packages that a generation model imports, as pip takes them."""
    if bundle.manifest["backend"] == "onnxruntime":
        return [*_REQUIREMENTS, "onnxruntime>=1.24"]
    exact = f"=={bundle.library_version}" if bundle.library_version else ""
    return [*_REQUIREMENTS, *_GPU_REQUIREMENTS, f"{bundle.library}{exact}"]


def _write_documents(repository: Path, name: str, bundle: EngineBundle) -> None:
    templates = resources.files("r1trt.package")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )
    generates = bundle.manifest["cache"]
    for file in _GENERATION_FILES if generates else _SCORING_FILES:
        template = environment.from_string(templates.joinpath(f"{file}.jinja").read_text(encoding="utf-8"))
        text = template.render(
            name=name,
            manifest=bundle.manifest,
            bundle=bundle,
            container=CONTAINER,
            plugin_file=LIBRARY_FILE,
        )
        (repository / file).write_text(text, encoding="utf-8")
    if generates:
        (repository / "requirements.txt").write_text("\n".join(requirements_from_bundle(bundle)) + "\n")
        # The image takes nothing else of the repository, whose engine may be large.
        (repository / ".dockerignore").write_text("*\n!requirements.txt\n")


def _write_manifest(repository: Path, name: str, bundle: EngineBundle) -> None:
    content: dict[str, Any] = {
        "kind": "triton",
        "model_name": name,
        "model": "generation" if bundle.manifest["cache"] else "scoring",
        "r1trt": __version__,
        "library": {bundle.library: bundle.library_version},
        "files": [
            _file_entry(repository, path)
            for path in sorted(repository.rglob("*"))
            if path.is_file() and "python" not in path.relative_to(repository).parts
        ],
        "engine": _engine_facts(bundle.manifest),
    }
    write_manifest(repository, content)


def _file_entry(repository: Path, path: Path) -> dict[str, Any]:
    return {
        "file": path.relative_to(repository).as_posix(),
        "bytes": path.stat().st_size,
        "sha256": sha256_of_file(path),
    }


def _engine_facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: manifest[key] for key in ("arch", "sms", "backend", "precision", "cache", "capacity", "versions")
    }
