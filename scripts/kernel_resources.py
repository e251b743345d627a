"""Compiles every CUDA kernel for every architecture, and writes what ptxas says of it into docs/kernels.md.

python scripts/kernel_resources.py [--sm 80]... [--source NAME]... [--check] [--jobs 2]

With `--check` nothing is written: exits with 1 if the kernels are not those of the table, or one spills more
than it says.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from r1trt.errors import BuildError, ConfigError, R1TrtError
from r1trt.plugin_tools.compilers import Compilers
from r1trt.plugin_tools.library import objects_directory
from r1trt.plugin_tools.objects import ObjectCache
from r1trt.plugin_tools.targets import (
    TARGETS,
    cuda_compilation,
    require_overlapping_products,
)
from r1trt.plugin_tools.toolchain import toolchain_from_machine

REPOSITORY = Path(__file__).resolve().parent.parent
PLUGINS = REPOSITORY / "plugins"
KERNELS = PLUGINS / "kernels"
DOCUMENT = REPOSITORY / "docs" / "kernels.md"
BEGIN, END = "<!-- written by scripts/kernel_resources.py -->", "<!-- end -->"
# Types that tell kernels apart, as the table names them.
SHORT_NAMES = {"__nv_bfloat16": "bf16", "__half": "fp16", "__nv_fp8_e4m3": "e4m3", "float": "fp32"}

ENTRY = re.compile(r"Compiling entry function '(?P<name>\S+)' for 'sm_(?P<sm>\w+)'")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (?P<registers>\d+) registers")
STATIC_SHARED = re.compile(r"(\d+) bytes smem")
CELL = re.compile(r"(?P<registers>\d+)(?: \+(?P<spills>\d+))?")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one kernel needs on one architecture.

    Attributes:
        registers: Of a thread.
        spilled_bytes: Of a thread, stores and loads together.
        static_shared_bytes: Of a block, without what a launch adds.
    """

    registers: int
    spilled_bytes: int
    static_shared_bytes: int


Table = dict[str, dict[str, Resources]]  # by source and kernel, then by target as in "90a"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        sources = _sources(options.source)
        found = measure(sources, options.sm or list(TARGETS), options.jobs)
        if not options.check:
            if options.sm or options.source:
                print("\n".join(rendered(found)))
            else:
                write(found)
            return 0
        faults = compare(found, read_table(), {source.stem for source in sources})
    except R1TrtError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(faults) or f"{len(found)} kernels are as {DOCUMENT.name} has them")
    return 1 if faults else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sm", type=int, action="append", choices=TARGETS, help="only this architecture")
    parser.add_argument("--source", action="append", help="only this source, as in `cache`")
    parser.add_argument("--check", action="store_true", help="compare with the table; write nothing")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at the same time")
    return parser


def _sources(names: Iterable[str] | None) -> list[Path]:
    every = sorted(KERNELS.glob("*/*.cu"))
    if names is None:
        return every
    wanted = set(names)
    if unknown := wanted - {path.stem for path in every}:
        raise ConfigError(
            "There is no such source.",
            where="--source",
            found=", ".join(sorted(unknown)),
            expected=", ".join(path.stem for path in every),
        )
    return [path for path in every if path.stem in wanted]


def measure(sources: Sequence[Path], sms: Sequence[int], jobs: int) -> Table:
    """Compiles sources with the plugins' own options.

    Args:
        sources: The `.cu` files.
        sms: Of `TARGETS`.
        jobs: Compilers that run at the same time.

    Raises:
        UnavailableError: There is no CUDA compiler.
        BuildError: A source does not compile, or a warning or serialized `wgmma` came up.
    """
    chain = toolchain_from_machine()
    compilations = [cuda_compilation(chain, source, PLUGINS, sms) for source in sources]
    table: Table = {}
    with Compilers(jobs) as compilers:
        for compiled in ObjectCache(objects_directory(), compilers).objects(compilations):
            table.update(parsed(compiled.source.stem, require_overlapping_products(compiled).printed))
    return table


def parsed(source: str, log: str) -> Table:
    """The table of one source from what ptxas printed."""
    matches = list(ENTRY.finditer(log))
    ends = [*(match.start() for match in matches), len(log)][1:]
    names = _short_names([match["name"] for match in matches])
    table: Table = defaultdict(dict)
    for match, end in zip(matches, ends, strict=True):
        text = log[match.end() : end]
        spills, used, shared = SPILLS.search(text), USED.search(text), STATIC_SHARED.search(text)
        if spills is None or used is None:
            raise BuildError("ptxas says something else than expected.", where=source, found=text[:500])
        table[f"{source}: {names[match['name']]}"][match["sm"]] = Resources(
            registers=int(used["registers"]),
            spilled_bytes=int(spills[1]) + int(spills[2]),
            static_shared_bytes=int(shared[1]) if shared else 0,
        )
    return dict(table)


def _short_names(mangled: Sequence[str]) -> dict[str, str]:
    if not mangled:
        return {}
    text = "\n".join(mangled)
    result = subprocess.run(["c++filt"], input=text, capture_output=True, text=True, timeout=60, check=True)
    return {name: _shortened(long) for name, long in zip(mangled, result.stdout.splitlines(), strict=True)}


def _shortened(name: str) -> str:
    """`void a::b::kernel<a::Tile<__half, 64> >(a::Problem)` as `kernel<Tile<fp16, 64>>`."""
    name = name.replace("(anonymous namespace)::", "").removeprefix("void ")
    name = name[: name.index("(")]
    name = re.sub(r"> (?=>)", ">", re.sub(r"\w+::", "", name))
    for long, short in SHORT_NAMES.items():
        name = re.sub(rf"\b{long}\b", short, name)
    return name


def rendered(table: Mapping[str, Mapping[str, Resources]]) -> list[str]:
    """The table as Markdown lines."""
    targets = list(dict.fromkeys(target for row in table.values() for target in row))
    targets.sort(key=lambda target: int(re.sub(r"\D", "", target)))
    lines = [f"| kernel | static shared | {' | '.join(f'sm_{target}' for target in targets)} |"]
    lines.append(f"|---|{'---:|' * (len(targets) + 1)}")
    for name, row in sorted(table.items()):
        cells = [_cell(row[target]) if target in row else "" for target in targets]
        shared = max(resources.static_shared_bytes for resources in row.values())
        lines.append(f"| `{name}` | {shared} | {' | '.join(cells)} |")
    return lines


def _cell(resources: Resources) -> str:
    return f"{resources.registers}" + (f" +{resources.spilled_bytes}" if resources.spilled_bytes else "")


def _parts() -> tuple[str, str, str]:
    """The document before the table, the table, and what is behind it."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not begin or not end:
        raise BuildError(
            "The document has no place for the table.", where=DOCUMENT, expected=f"{BEGIN} ... {END}"
        )
    return before, table, after


def write(table: Mapping[str, Mapping[str, Resources]]) -> None:
    """Puts the table into the document."""
    before, _, after = _parts()
    text = f"{before}{BEGIN}\n\n" + "\n".join(rendered(table)) + f"\n\n{END}{after}"
    DOCUMENT.write_text(text, encoding="utf-8")


def read_table() -> Table:
    """The document's table."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in _parts()[1].splitlines()
        if line.startswith("|")
    ]
    table: Table = {}
    for name, shared, *cells in rows[2:]:
        table[name.strip("`")] = {
            target.removeprefix("sm_"): Resources(
                registers=int(cell["registers"]),
                spilled_bytes=int(cell["spills"] or 0),
                static_shared_bytes=int(shared),
            )
            for target, cell in zip(rows[0][2:], map(CELL.fullmatch, cells), strict=True)
            if cell is not None
        }
    return table


def compare(found: Table, listed: Table, sources: set[str]) -> list[str]:
    """What is wrong with the kernels that were found, one line each: unlisted, gone, or spilling more."""
    expected = {name: row for name, row in listed.items() if name.partition(":")[0] in sources}
    faults = [f"{name}: not in the table" for name in sorted(found.keys() - expected.keys())]
    faults += [f"{name}: in the table alone" for name in sorted(expected.keys() - found.keys())]
    for name in sorted(found.keys() & expected.keys()):
        for target, resources in found[name].items():
            most = expected[name][target].spilled_bytes if target in expected[name] else 0
            if resources.spilled_bytes > most:
                faults.append(
                    f"{name}: spills {resources.spilled_bytes} bytes on sm_{target}; {most} are listed"
                )
    return faults


if __name__ == "__main__":
    sys.exit(main())
