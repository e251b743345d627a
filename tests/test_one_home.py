"""What is said in one place is said there alone: operators' names, names of files in artifacts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from r1trt.artifacts.build import BuildDirectory
from r1trt.artifacts.export import ExportDirectory
from r1trt.ops.registry import LAYER_OPERATORS

PACKAGE = Path(__file__).parents[1] / "r1trt"


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """String constants of a module that are no docstrings, f-strings' parts included."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def places(names: set[str], home: str) -> list[str]:
    """Where a string holds one of the names as a word of its own."""
    word = re.compile(r"(?<![\w.])(" + "|".join(map(re.escape, names)) + r")(?![\w.])")
    return [
        f"{path.relative_to(PACKAGE.parent)}:{line}: {text!r}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] != home
        for line, text in strings(path)
        if word.search(text)
    ]


def file_names() -> set[str]:
    """Names of the files that exports and builds are made of; a checkpoint's own are Hugging Face's."""
    found = set()
    for directory in (BuildDirectory(path=Path("d")), ExportDirectory(path=Path("d"))):
        ours = vars(type(directory)).items()
        values = [getattr(directory, name) for name, item in ours if isinstance(item, property)]
        found |= {value.name for value in values if isinstance(value, Path)}
    return found


def test_operators_are_named_in_ops_alone() -> None:
    assert not places({name for name in LAYER_OPERATORS if name.startswith("R1")}, home="ops")


def test_files_of_artifacts_are_named_in_artifacts_alone() -> None:
    assert {"model.onnx", "typed.onnx", "precision.yaml"} <= file_names()
    assert not places(file_names() | {"manifest.json"}, home="artifacts")
