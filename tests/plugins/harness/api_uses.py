"""What source code uses of TensorRT's Python module, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# The class of what a name of ours holds, wherever TensorRT's objects have names.
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "added": "IOptimizationProfile",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "layer": "ILayer",
    "tensor": "ITensor",
}
# Names that mean it in one file only.
CLASSES_OF_FILE = {
    "timing_cache.py": {"cache": "ITimingCache", "earlier": "ITimingCache"},
    "worker.py": {"e": "ParserError"},
    "read_back.py": {"t": "ITensor"},
}
MODULE = "trt"


@dataclass(frozen=True)
class Use:
    """One use.

    Attributes:
        name: Of the module's, dotted: "BuilderFlag.TF32", "Builder.create_network".
        arguments: How many are passed; None where it is not called, or not only by position.
        where: File and line.
    """

    name: str
    arguments: int | None
    where: str


def uses_of_module(path: Path) -> Iterator[Use]:
    """The uses in one file; what `getattr` and `hasattr` ask for may be absent, and is none."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    classes = {**CLASSES, **CLASSES_OF_FILE.get(path.name, {})}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        name = _name(node, classes)
        if name is not None:
            arguments = _arguments(calls.get(id(node)))
            if arguments and name.endswith(".__init__"):
                arguments -= 1  # the object itself, which bindings call self
            yield Use(name, arguments, f"{path.name}:{node.lineno}")


def _name(node: ast.Attribute, classes: Mapping[str, str]) -> str | None:
    """ "BuilderFlag.TF32" of `trt.BuilderFlag.TF32`, "Builder.create_network" of `builder.create_network`."""
    parts: list[str] = []
    value: ast.expr = node
    while isinstance(value, ast.Attribute):
        parts.insert(0, value.attr)
        value = value.value
    if not isinstance(value, ast.Name):
        return None
    names = [value.id, *parts]
    if names[0] == MODULE:
        return ".".join(names[1:])
    if names[0] == "self":
        names = [names[1].removeprefix("_"), *names[2:]]
    if len(names) < 2 or names[0] not in classes:
        return None
    # What an attribute of it has, is another class's.
    return f"{classes[names[0]]}.{names[1]}"


def _arguments(call: ast.Call | None) -> int | None:
    if call is None or call.keywords or any(isinstance(item, ast.Starred) for item in call.args):
        return None
    return len(call.args)
