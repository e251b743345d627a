"""Finding peers that may or may not be there, and calling their operators by the names of their arguments."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

PEER_VARIABLE = "R1TRT_GPU_PEERS"  # folders with operators' libraries that are not installed as packages


class PeerMissing(Exception):
    """A peer is not there; the message says what was looked for."""


def package(name: str) -> Any:
    """A package's module.

    Raises:
        PeerMissing: It cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # what an import of a stranger's package raises is anything
        raise PeerMissing(f"{name} is not there: {type(error).__name__}: {error}") from error


def operator(library: str, modules: tuple[str, ...], namespace: str, name: str) -> Any:
    """A `torch.ops` operator: of an importable module, or of a library file in a folder of R1TRT_GPU_PEERS.

    Args:
        library: The library's file name, such as `_moe_C.abi3.so`.
        modules: Modules whose import registers it.
        namespace: Of the operator.
        name: Of the operator.

    Raises:
        PeerMissing: Neither is there.
    """
    looked = [f"import {module}" for module in modules]
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # see `package`
            looked.append(f"{type(error).__name__}: {error}")
        if hasattr(getattr(torch.ops, namespace), name):
            return getattr(getattr(torch.ops, namespace), name)
    for folder in filter(None, os.environ.get(PEER_VARIABLE, "").split(os.pathsep)):
        path = Path(folder) / library
        looked.append(str(path))
        if path.is_file():
            ops: Any = torch.ops
            ops.load_library(str(path))
            return getattr(getattr(torch.ops, namespace), name)
    raise PeerMissing(f"{namespace}.{name} is not there ({'; '.join(looked)})")


# For arguments without a default that a caller does not know: what turns the thing off.
_OFF: dict[str, Any] = {"int": 0, "float": 0.0, "bool": False, "SymInt": 0, "str": ""}


def bound(op: Any, *, where_named: Mapping[str, Any] | None = None, **known: Any) -> Callable[[], Any]:
    """A call of a `torch.ops` operator with the arguments that its schema names; versions differ in them.

    Args:
        op: The operator.
        where_named: Arguments that only some versions have.
        known: Arguments that every version must have.

    Raises:
        PeerMissing: The schema has no such argument, or a tensor that is not known.
    """
    schema = op.default._schema
    names = [argument.name for argument in schema.arguments]
    if unknown := set(known) - set(names):
        raise PeerMissing(f"{schema.name} has no {', '.join(sorted(unknown))}: {schema}")
    arguments = {**known, **{name: value for name, value in (where_named or {}).items() if name in names}}
    for argument in schema.arguments:
        kind = str(argument.type)
        if argument.name in arguments or argument.has_default_value():
            continue
        if not kind.startswith("Optional") and kind not in _OFF:
            raise PeerMissing(f"{schema.name} wants {argument.name}: {schema}")
        arguments[argument.name] = _OFF.get(kind)
    return lambda: op(**arguments)
