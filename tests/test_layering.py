"""Data flows one way: a module imports from the stages before its own, never from a later one."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "r1trt"

# From the base to the top; a module may import its own stage and those above it in this list.
STAGES = (
    ("errors", "cache", "data_types", "progress", "artifacts", "arch", "data", "cuda_driver"),
    ("config",),
    ("families",),
    ("rope",),
    ("graph",),
    ("ops",),
    ("plugin_tools",),
    ("checkpoint", "model"),
    ("lowerings",),
    ("export",),
    ("precision", "passes"),
    ("runtime",),
    ("calibrate", "build"),
    ("evaluate",),
    ("validate",),
    ("serving", "inspect", "doctor"),
    ("package", "frontends"),
    ("triton_server",),
    ("plugin_checks",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(STAGES) for name in names}

# What importing the package or its command line must not load.
HEAVY = ("torch", "tensorrt", "tensorrt_rtx", "onnxruntime", "transformers", "matplotlib", "polygraphy")


def stage_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_stages(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            stage = rest.partition(".")[0]
            if package == "r1trt" and stage and stage != "__version__":
                yield stage


def test_every_module_has_a_stage() -> None:
    stages = {stage_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert stages <= RANK.keys()


def test_imports_flow_one_way() -> None:
    backwards = [
        f"{path.relative_to(PACKAGE.parent)} imports r1trt.{stage}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if stage_of(path) != "__init__"
        for stage in imported_stages(path)
        if RANK[stage] > RANK[stage_of(path)]
    ]
    assert not backwards, "\n".join(backwards)


def test_importing_needs_no_heavy_library() -> None:
    code = "import sys, r1trt, r1trt.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(loaded.stdout.split())
