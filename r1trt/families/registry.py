"""All families, and the one reader of config.json.

What the project does not implement is refused, by name, rather than ignored: an exported graph that silently
leaves a sliding window out would be a wrong model.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from r1trt.config import ModelConfig
from r1trt.errors import ConfigError
from r1trt.families.family import Family
from r1trt.families.keys import Keys
from r1trt.families.tensors import is_in_table, tensors_from_table


@cache
def families() -> Mapping[str, Family]:
    """All families by architecture: what the modules of this folder call FAMILY."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    modules = (importlib.import_module(f"{__package__}.{name}") for name in names)
    found = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return MappingProxyType({family.architecture: family for family in found})


def family_of(config: ModelConfig) -> Family:
    """The family that a configuration was read by."""
    return families()[config.architecture]


def model_config_from_dict(
    raw: Mapping[str, Any], *, where: Path, notes: list[str] | None = None
) -> ModelConfig:
    """Reads a Hugging Face config.json dict.

    Args:
        raw: The parsed config.json of a causal language model.
        where: The file it was read from, for messages.
        notes: Takes what a user should know of how the keys were read.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: The architecture or an option of it is not implemented, a key is missing or malformed, or
            keys contradict each other.
    """
    keys = Keys(raw, where)
    family = _family_from_keys(keys)
    try:
        config = family.config_from_keys(keys)
    except ConfigError as error:
        if "where" in error.details:
            raise
        raise ConfigError(
            error.message,
            where=where,
            found=error.details.get("found"),
            expected=error.details.get("expected"),
            fix=error.details.get("fix"),
        ) from error
    if notes is not None:
        notes += keys.notes
    return config


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes by name of the tensors that a checkpoint of this configuration must hold."""
    return tensors_from_table(family_of(config).tensors, config)


def is_ignored(config: ModelConfig, name: str) -> bool:
    """Says whether a tensor is known, and known to be unused by a model of this configuration."""
    return is_in_table(family_of(config).ignored, config, name)


def _family_from_keys(keys: Keys) -> Family:
    named, known = keys.raw.get("architectures"), families()
    expected = f"one of {', '.join(known)}"
    if not named:
        return _family_of_type(keys, expected)
    if not (isinstance(named, list) and len(named) == 1 and isinstance(named[0], str)):
        keys.refuse("config does not name one architecture", found=repr(named), expected=expected)
    if named[0] not in known:
        keys.refuse(
            f"architecture {named[0]!r} is not supported",
            found=named[0],
            expected=expected,
            fix="take a checkpoint of a supported architecture, e.g. an R1-Distill-Qwen or R1-Distill-Llama",
        )
    family, model_type = known[named[0]], keys.raw.get("model_type")
    if model_type is not None and model_type != family.name:
        keys.refuse(
            "model_type contradicts the architecture", found=repr(model_type), expected=repr(family.name)
        )
    return family


def _family_of_type(keys: Keys, expected: str) -> Family:
    """The family of a config that names no architecture; a model type has one that generates text."""
    model_type = keys.raw.get("model_type")
    of_type = [family for family in families().values() if family.name == model_type]
    if len(of_type) != 1:
        keys.refuse(
            "config does not name one architecture", found=f"model_type {model_type!r}", expected=expected
        )
    keys.note(f"config.json names no architecture: model_type {model_type!r} is {of_type[0].architecture}.")
    return of_type[0]
