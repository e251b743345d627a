"""Files and functions stay of a size that is read in one go."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE, PLUGINS, SCRIPTS = ROOT / "r1trt", ROOT / "plugins", ROOT / "scripts"

LONGEST_FILE, MEDIAN_FILE, LONGEST_FUNCTION = 400, 120, 45
SOURCES = {".py", ".cpp", ".cu", ".cuh", ".h"}

# What may have braces or lines that are not code: comments, directives, texts, characters.
NOT_CODE = re.compile(
    r'//[^\n]*|/\*.*?\*/|^[ \t]*#(?:\\\n|[^\n])*|R"\((?:.*?)\)"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'',
    re.DOTALL | re.MULTILINE,
)
TEMPLATE = re.compile(r"^\s*template\s*<[^(){};]*?>\s*(?=\w)")
SCOPE = re.compile(r"^\s*(inline\s+)?(namespace|struct|class|enum|union)\b|^\s*extern\b[^(]*$")
CALLED = re.compile(r"([\w~]+)\s*\(")


def sources(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in SOURCES)


def lengths() -> dict[str, int]:
    files = sources(PACKAGE, PLUGINS)
    return {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}


def python_functions(text: str) -> Iterator[tuple[str, int]]:
    """Name and lines of each function."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def cxx_functions(text: str) -> Iterator[tuple[str, int]]:
    """Name and lines of each function; a lambda counts as a part of the function that it is in."""
    code = NOT_CODE.sub(lambda match: "\n" * match[0].count("\n"), text)
    open_scopes: list[tuple[str, int] | None] = []  # a function, with its first line; None for anything else
    begin = 0  # of the header of the next block
    for brace in re.finditer(r"[{};]", code):
        inside = any(open_scopes)
        if brace[0] == "{":
            header = TEMPLATE.sub("", code[begin : brace.start()])
            is_scope = SCOPE.search(header) or header.rstrip().endswith("=")
            called = None if inside or is_scope else CALLED.search(header)
            first = code.count("\n", 0, brace.start() - len(header.lstrip())) + 1
            open_scopes.append((called[1], first) if called else None)
        elif brace[0] == "}" and (closed := open_scopes.pop()) is not None:
            yield closed[0], code.count("\n", 0, brace.start()) + 2 - closed[1]
        if not inside or brace[0] != ";":
            begin = brace.end()
    assert not open_scopes


def long_functions() -> Iterator[str]:
    for path in sources(PACKAGE, PLUGINS, SCRIPTS):
        functions = python_functions if path.suffix == ".py" else cxx_functions
        for name, lines in functions(path.read_text()):
            if lines > LONGEST_FUNCTION:
                yield f"{path.relative_to(ROOT)}: {name} has {lines} lines"


def test_no_file_is_long() -> None:
    assert not {name: lines for name, lines in lengths().items() if lines > LONGEST_FILE}


def test_most_files_are_short() -> None:
    assert statistics.median(lengths().values()) < MEDIAN_FILE


def test_no_function_is_long() -> None:
    assert not list(long_functions())


NESTED = """
template <class T, int kN>
__global__ void run(T x,
                    int y) {
  auto f = [&] {
    if (y) return "}";  // {
  };
}
namespace a {
struct B {
  int get() const { return '{'; }
  int b{0};
};
extern "C" {
int const kTable[] = {
  1,
};
}
#define OPEN {
}
A::A(int x) : x_(x) {
  x;
}
"""


def test_functions_of_cxx_are_found() -> None:
    assert list(cxx_functions(NESTED)) == [("run", 6), ("get", 1), ("A", 3)]
