"""Writes docs/structure.md: one line a module, taken from its docstring.

python scripts/write_structure.py
"""

from __future__ import annotations

import ast
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "r1trt"
STRUCTURE = REPOSITORY / "docs" / "structure.md"

# In the order that data flows in; folders that are not named here come last.
FOLDERS = (
    ".",
    "artifacts",
    "tokenizer",
    "config",
    "families",
    "checkpoint",
    "model",
    "graph",
    "ops",
    "lowerings",
    "lowerings/onnxruntime",
    "lowerings/tensorrt_rtx",
    "export",
    "precision",
    "passes",
    "runtime",
    "calibrate",
    "plugin_tools",
    "parts",
    "build",
    "evaluate",
    "validate",
    "serving",
    "cluster",
    "frontends/triton",
    "door",
    "openai",
    "package",
    "triton_server",
    "plugin_checks",
    "plugin_checks/cases",
    "plugin_checks/harness",
    "plugin_checks/bench",
    "cli",
)

HEAD = """\
# Structure

One line a module, written by `scripts/write_structure.py`. Data flows from the top of this page to its end;
`tests/test_layering.py` checks what may import what.

    checkpoint ──▶ ModelConfig + weight index ──▶ model.onnx ──▶ PrecisionPlan ──▶ typed.onnx
                                                                                      │
         Triton model repository ◀── validation report ◀── engine + manifest ◀────────┘
"""

TAIL = """\

## Elsewhere

| path | |
|---|---|
| `plugins/` | The three operators as TensorRT plugins, and their CUDA kernels. |
| `scripts/` | Thin runners: the demo, the stand-in checkpoint, benchmarks, this page. |
| `tests/` | Mirrors `r1trt/`; `tiny_checkpoints.py` writes the random models of the tests. |
| `engines/` | Build output, never committed. |
| `docs/decisions/` | Why things are as they are. |
| `docs/validation.md` | What is compared, and what decides. |
"""


def summary_of(module: Path) -> str:
    """The first paragraph of a module's docstring, on one line, for a table."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def section(folder: str, modules: list[Path]) -> str:
    """One folder: what it is, and its modules."""
    title = "r1trt/" if folder == "." else f"r1trt/{folder}/"
    package = PACKAGE / folder / "__init__.py"
    head = f"\n## `{title}`\n\n" + (f"{summary_of(package)}\n\n" if package.is_file() else "")
    rows = [f"| `{module.name}` | {summary_of(module)} |\n" for module in modules]
    return head + "| module | |\n|---|---|\n" + "".join(rows)


def structure() -> str:
    """The whole page."""
    modules: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "__init__.py":
            modules.setdefault(path.parent.relative_to(PACKAGE).as_posix(), []).append(path)
    named = [folder for folder in FOLDERS if folder in modules]
    others = sorted(set(modules) - set(FOLDERS))
    return HEAD + "".join(section(folder, modules[folder]) for folder in [*named, *others]) + TAIL


if __name__ == "__main__":
    STRUCTURE.write_text(structure(), encoding="utf-8")
