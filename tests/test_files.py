"""Files from elsewhere: only regular ones are read, up to a limit, and all of them through one module."""

from __future__ import annotations

import ast
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1trt import files
from r1trt.errors import CheckpointError, PlanError
from r1trt.files import bytes_of_file, open_file, text_of_file

PACKAGE = Path(__file__).parents[1] / "r1trt"

# Modules that open or parse files otherwise, and why each of them may.
MAY = {
    "files.py": "is the one that does",
    "tokenizer/limited_child.py": "/proc of itself",
    "runtime/huge_pages.py": "/proc of itself",
    "lifetime/identity.py": "/proc of a process",
    "lifetime/children.py": "/proc of a process",
    "machine.py": "/proc and /sys of this machine",
    "package/documents.py": "templates of this package",
    "package/serving_code.py": "sources of this package",
    "page.py": "templates of this package",
    "triton_server/environment.py": "a file of this package",
    "triton_server/process.py": "the log of a server that it started",
    "build/child.py": "what its own child writes",
    "build/worker.py": "what its own parent wrote",
    "plugin_checks/plugin_stages.py": "no file, but a library in the harness",
    "plugin_tools/build.py": "its own result, to sync it",
    "plugin_tools/objects.py": "sources of this package, and what the compiler prints",
    "plugin_tools/sources.py": "sources of this package",
    "plugin_checks/machine.py": "sources of this package",
    "plugin_checks/cases/params.py": "headers of this package",
    "model/io.py": "torch's reader, of files whose headers were read before",
}
READS = {"read_text", "read_bytes", "fromfile", "memmap", "safe_open", "from_file", "load_file"}
MODULES = {("onnx", "load"), ("ir", "load"), ("json", "load"), ("np", "load"), ("yaml", "load")}
WRITES = {"w", "a", "x"}


def reads(path: Path) -> Iterator[int]:
    """Lines of a module that read a file in another way than through `r1trt.files`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        owner = getattr(function.value, "id", "") if isinstance(function, ast.Attribute) else ""
        if name == "open" and owner != "os":
            mode = node.args[isinstance(function, ast.Name) :][:1]
            if not (mode and isinstance(mode[0], ast.Constant) and WRITES & set(str(mode[0].value))):
                yield node.lineno
        elif name in READS or (owner, name) in MODULES:
            yield node.lineno


def test_every_reader_goes_through_one_module() -> None:
    found = {str(path.relative_to(PACKAGE)): list(reads(path)) for path in sorted(PACKAGE.rglob("*.py"))}
    assert {name: lines for name, lines in found.items() if lines and name not in MAY} == {}


def test_exceptions_are_needed() -> None:
    assert [name for name in MAY if name != "files.py" and not list(reads(PACKAGE / name))] == []


def put(path: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    elif kind == "directory":
        path.mkdir()
    elif kind != "nothing":
        path.symlink_to(kind)


@pytest.mark.parametrize("kind", ["fifo", "socket", "directory", "nothing", "/dev/zero", "/dev/stdin"])
def test_what_is_no_file_of_ours_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.json"
    put(path, kind)
    with pytest.raises(PlanError, match=r"cannot be read|not a regular file") as caught:
        bytes_of_file(path, limit=100, error=PlanError)
    assert caught.value.details["where"] == str(path)


def test_a_file_larger_than_its_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="too large"):
        bytes_of_file(path, limit=100)
    with pytest.raises(CheckpointError, match="too large"):
        open_file(path, limit=100)
    with open_file(path) as file_without_limit:
        assert file_without_limit.read(3) == b"\0\0\0"


def test_a_file_without_a_size_is_read_up_to_its_limit() -> None:
    with pytest.raises(CheckpointError, match="too large"):
        bytes_of_file(Path("/proc/self/maps"), limit=100)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 5000])
def test_names_that_are_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        bytes_of_file(tmp_path / name, limit=100)


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("naïve", encoding="utf-8")
    assert text_of_file(path, limit=6) == "naïve"
    path.write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="UTF-8"):
        text_of_file(path, limit=6)


def test_the_documents_limits_are_the_programs() -> None:
    text = (PACKAGE.parent / "docs" / "security.md").read_text(encoding="utf-8")
    table = text.partition("## Sizes of files")[2].partition("\n\n`python")[0]
    units = {"MiB": 1 << 20, "GiB": 1 << 30}
    said = {int(n) * units[unit] for n, unit in re.findall(r"\| (\d+) ([MG]iB) \|", table)}
    limits = {value for name, value in vars(files).items() if name.endswith("_BYTES")}
    assert said == limits
