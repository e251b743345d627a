"""Whether a server would load a model.

Triton's schema (from the `tritonclient` package) knows fields and their types; `check_model_directory` adds
what the server looks at only when it loads a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1trt.artifacts.repository import ServedModelDirectory
from r1trt.errors import ConfigError, ExportError
from r1trt.files import CONFIG_BYTES, text_of_file
from r1trt.package.triton_config import model_config_from_text

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig as TritonModelConfig

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def require_model_name(name: str) -> str:
    """Returns the name. Raises ConfigError where it cannot be a model's."""
    if not _MODEL_NAME.fullmatch(name):
        raise ConfigError(
            "This cannot be the name of a Triton model.",
            found=name,
            expected="up to 128 letters, digits, '.', '_' and '-', of which the first is a letter or a digit",
            fix="pass such a name with --model-name",
        )
    return name


def check_model_directory(directory: Path) -> TritonModelConfig:
    """Checks the configuration of a model's directory against the schema and against the files beside it.

    Returns:
        The parsed configuration.

    Raises:
        ExportError: Lists everything that is wrong.
    """
    path = ServedModelDirectory(path=directory).configuration
    if not path.is_file():
        raise ExportError(f"A Triton model needs a {path.name}.", where=directory)
    config = model_config_from_text(text_of_file(path, limit=CONFIG_BYTES, error=ConfigError), where=path)
    versions = [child for child in directory.iterdir() if child.is_dir() and child.name.isdigit()]
    problems = [
        *([] if config.name == directory.name else [f"name {config.name!r} is not the directory's"]),
        *([] if config.platform or config.backend else ["neither platform nor backend is set"]),
        *([] if versions else ["no version directory (a directory named by a number)"]),
        *_tensor_problems([*config.input, *config.output]),
        *(
            f"{version.name}/{name} is missing"
            for version in versions
            for name in _files_named(config, directory)
            if not (version / name).is_file()
        ),
    ]
    if problems:
        raise ExportError("Triton would not load this model.", where=path, found="; ".join(problems))
    return config


def _files_named(config: TritonModelConfig, directory: Path) -> list[str]:
    own = [ServedModelDirectory(path=directory).program.name] if config.backend == "python" else []
    named = (config.default_model_filename, *config.cc_model_filenames.values(), *own)
    return [name for name in named if name]


def _tensor_problems(tensors: Iterable[Any]) -> list[str]:
    problems = []
    seen: set[str] = set()
    for tensor in tensors:
        if not tensor.data_type:
            problems.append(f"{tensor.name}: no data_type")
        if not tensor.dims or any(size == 0 or size < -1 for size in tensor.dims):
            problems.append(f"{tensor.name}: dims {list(tensor.dims)}")
        if tensor.name in seen:
            problems.append(f"{tensor.name}: declared twice")
        seen.add(tensor.name)
    return problems
