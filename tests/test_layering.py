"""Data flows one way: a module imports from its folder and from folders before it, never in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "r1trt"

# From the base to the top, each folder (or module of the package itself) alone.
ORDER = (
    "errors",
    "packages",
    "files",
    "strict_json",
    "progress",
    "text",
    "page",
    "lifetime",
    "data_types",
    "cache",
    "machine",
    "arch",
    "cuda_driver",
    "data",
    "artifacts",
    "tokenizer",
    "config",
    "rope",
    "families",
    "checkpoint",
    "graph",
    "ops",
    "model",
    "lowerings",
    "export",
    "precision",
    "passes",
    "runtime",
    "calibrate",
    "plugin_tools",
    "estimate",
    "parts",
    "build",
    "profile",
    "evaluate",
    "search",
    "prune",
    "finetune",
    "validate",
    "serving",
    "cluster",
    "frontends",
    "door",
    "openai",
    "package",
    "triton_server",
    "plugin_checks",
    "inspect",
    "doctor",
    "cli",
    "__main__",
)
RANK = {name: rank for rank, name in enumerate(ORDER)}

# What importing the package or its command line must not load.
HEAVY = (
    *("numpy", "onnx", "onnx_ir", "torch", "tensorrt", "tensorrt_rtx", "onnxruntime", "transformers"),
    *("matplotlib", "polygraphy", "ray"),
)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES: Mapping[str, Path] = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def folder_of(module: str) -> str:
    """`r1trt.<folder>...`; empty for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def imported_modules(module: str) -> Iterator[str]:
    """Modules of this package that a module imports, in functions and for type checking too."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(), filename=str(MODULES[module]))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def edges_of(module: str) -> set[str]:
    return {name for name in imported_modules(module) if name in MODULES and name not in (module, "r1trt")}


def test_every_folder_has_its_place() -> None:
    assert {folder_of(module) for module in MODULES} - {""} == set(ORDER)


def test_imports_flow_one_way() -> None:
    backwards = [
        f"{module} imports {imported}"
        for module in MODULES
        if folder_of(module)
        for imported in sorted(edges_of(module))
        if RANK[folder_of(imported)] > RANK[folder_of(module)]
    ]
    assert not backwards, "\n".join(backwards)


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        TopologicalSorter({module: edges_of(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_importing_needs_no_heavy_library() -> None:
    code = "import sys, r1trt, r1trt.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(loaded.stdout.split())
