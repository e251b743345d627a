"""The wheel in an environment outside the repository: from a checkpoint to a served engine's files."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import write_llama

from r1trt.arch import LIBRARIES

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = ("pyproject.toml", "README.md", "LICENSE", "r1trt", "plugins")

# Distributions whose modules are not named like them.
DISTRIBUTIONS = {"cuda": "cuda-python", "google": "protobuf", "grpc": "grpcio", "yaml": "pyyaml"} | {
    library.module: library.package for library in LIBRARIES.values()
}
# Triton's Python backend puts it into the program that it runs.
GIVEN = {"triton_python_backend_utils"}
DEVELOPMENT = {"dev"}

pytestmark = pytest.mark.slow


def output_of(*command: object, cwd: Path) -> str:
    """What a command prints that finds nothing of this repository by its environment."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["R1TRT_CACHE"] = str(REPOSITORY / "build")  # of objects, by what is in their sources
    result = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result.stdout


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outside")


@pytest.fixture(scope="module")
def wheel(outside: Path) -> Path:
    """The wheel of a copy of the project: setuptools would add what earlier builds left in `build/`."""
    project = outside / "project"
    project.mkdir()
    for name in PROJECT:
        source = REPOSITORY / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, project / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(source, project / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation"]
    output_of(*pip, "--wheel-dir", outside / "wheels", project, cwd=outside)
    [built] = (outside / "wheels").glob("r1trt-*.whl")
    shutil.rmtree(project)
    return built


@pytest.fixture(scope="module")
def command(outside: Path, wheel: Path) -> Path:
    """The installed command; the dependencies are those of this environment, without its own r1trt."""
    environment = outside / "environment"
    venv.create(environment)
    python = environment / "bin" / "python"
    output_of(
        sys.executable, "-m", "pip", "--quiet", "--python", python, "install", "--no-deps", wheel, cwd=outside
    )
    packages = output_of(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=outside
    ).strip()
    # NOTES: a folder that a .pth file names does not have its own .pth files read: no editable install.
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = output_of(python, "-c", "import r1trt; print(r1trt.__file__)", cwd=outside)
    assert Path(where.strip()).is_relative_to(environment)
    return environment / "bin" / "r1trt"


def results(command: Path, *arguments: object, cwd: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output_of(command, *arguments, "--json", cwd=cwd))
    return found


def test_a_checkpoint_becomes_a_repository(command: Path, outside: Path) -> None:
    checkpoint = write_llama(outside / "tiny", tokenizer=True)
    results(command, "export", checkpoint, "-o", "export", "--max-seq-len", 64, cwd=outside)
    results(command, "build", "export", "--arch", "cpu", "-o", "engine", cwd=outside)
    answer = results(command, "generate", "engine", "--prompt", "the cat", "--max-new-tokens", 4, cwd=outside)
    assert isinstance(answer["text"], str) and answer["new_tokens"] == 4
    output_of(command, "triton", "engine", "-o", "repository", cwd=outside)
    assert list((outside / "repository").rglob("config.pbtxt"))


def test_it_carries_the_plugins_sources(command: Path, outside: Path) -> None:
    library = results(command, "plugins", "build", "--arch", "hopper", "-o", "plugins", cwd=outside)
    assert library["sms"] == [90]
    assert (outside / "plugins" / "libr1trt_plugins.so").is_file()


def test_it_carries_the_sources_of_their_checks(command: Path, outside: Path) -> None:
    receipt = outside / "receipt.json"
    found = results(
        command, "plugins", "check", "--stage", "build", "--sm", 90, "--receipt", receipt, cwd=outside
    )
    assert found == {"receipt": str(receipt), "published": [], "failures": [], "unfinished": []}
    build = json.loads(receipt.read_text())["stages"]["build"]
    assert build["stages_left_out"] is None
    assert all(Path(path).is_file() for path in build["files"].values())


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Modules that a program imports, wherever in it, and those that it names to import_module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "import_module":
            name = node.args[0]
            if isinstance(name, ast.Constant):
                yield str(name.value)


def distributions(requirements: list[str], extras: set[str]) -> set[str]:
    """Names in a wheel's Requires-Dist that hold without an extra, or with one of these."""
    found = set()
    for requirement in requirements:
        name, _, marker = requirement.partition(";")
        extra = re.search(r"extra == .([\w-]+)", marker)
        if extra is None or extra[1] in extras:
            found.add(re.split(r"[^\w.-]", name.strip())[0].lower().replace("_", "-"))
    return found


def test_every_import_is_of_a_declared_dependency(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        header = HeaderParser().parsestr(archive.read(metadata).decode())
        programs = {n: archive.read(n) for n in archive.namelist() if n.endswith(".py")}
    extras = set(header.get_all("Provides-Extra", [])) - DEVELOPMENT
    declared = distributions(header.get_all("Requires-Dist", []), extras)
    own = sys.stdlib_module_names | {"r1trt"} | GIVEN
    found = {
        (module, name)
        for name, program in programs.items()
        for module in (dotted.partition(".")[0] for dotted in imported_modules(ast.parse(program)))
        if module not in own
    }
    assert len(found) > 50
    undeclared = {
        (module, name)
        for module, name in found
        if DISTRIBUTIONS.get(module, module).lower().replace("_", "-") not in declared
    }
    assert not undeclared
    assert {library.package for library in LIBRARIES.values()} <= declared
