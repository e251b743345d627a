"""Files and functions stay of a size that is read in one go."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE, PLUGINS = ROOT / "r1trt", ROOT / "plugins"

LONGEST_FILE, MEDIAN_FILE, LONGEST_FUNCTION = 400, 120, 45
SOURCES = {".py", ".cpp", ".cu", ".cuh", ".h"}


def lengths() -> dict[str, int]:
    files = [path for folder in (PACKAGE, PLUGINS) for path in folder.rglob("*") if path.suffix in SOURCES]
    return {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}


def long_functions() -> Iterator[str]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    yield f"{path.relative_to(ROOT)}: {node.name} has {length} lines"


def test_no_file_is_long() -> None:
    assert not {name: lines for name, lines in lengths().items() if lines > LONGEST_FILE}


def test_most_files_are_short() -> None:
    assert statistics.median(lengths().values()) < MEDIAN_FILE


def test_no_function_is_long() -> None:
    assert not list(long_functions())
