"""The part of this package that serving needs, as a generation model carries it.

It is copied, so that a server needs no installation of r1trt, and no newer NumPy than its Python backend
works with. What is copied is found by following imports from the model that Triton calls, those inside
functions included: a machine imports only the half of its own backend.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import r1trt

ENTRY = "r1trt.frontends.triton.model"
"""The module that Triton's Python backend runs."""
FRONT_END = "r1trt.openai.__main__"
"""The program that speaks OpenAI's interface, beside the server."""


def serving_modules() -> list[Path]:
    """The modules of this package that both entries import, themselves included; paths within the package."""
    found: set[Path] = set()
    waiting = [ENTRY, FRONT_END]
    while waiting:
        for path in _files(waiting.pop()):
            if path not in found:
                found.add(path)
                waiting += _imported_names(_package() / path)
    return sorted(found)


def copy_serving_code(directory: Path) -> None:
    """Writes the modules as a package `r1trt` into a directory."""
    for path in serving_modules():
        target = directory / "r1trt" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_package() / path, target)


def _package() -> Path:
    return Path(r1trt.__file__).parent


def _files(name: str) -> list[Path]:
    """The files that are run when a dotted name is imported: its packages', and its own if it is a module."""
    stems = [Path(*name.split(".")[1:end]) for end in range(2, name.count(".") + 2)]
    candidates = [Path("__init__.py"), *(stem / "__init__.py" for stem in stems)]
    candidates += [stem.with_suffix(".py") for stem in stems]
    return [path for path in candidates if (_package() / path).is_file()]


def _imported_names(path: Path) -> Iterator[str]:
    """Dotted names of this package that a module imports; a name may be a module's or one inside it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.split(".")[0] == "r1trt")
