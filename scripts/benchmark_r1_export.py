"""Measures exporting DeepSeek-R1 and others at their own sizes, from sparse files without weights.

Each checkpoint has the true names, types and sizes of all its tensors (R1-671B: FP8 with block scales, the
layer that predicts a further token, 163 shards), and takes only the room of its headers and scales. `r1trt
export` runs in a child process, from its start to its end: imports, ONNX's checker and writing are counted.

    python scripts/benchmark_r1_export.py
    python scripts/benchmark_r1_export.py --shapes r1-671b,v2-lite --json
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmark_export import run_wrapped
from machine import machine, tree_bytes
from processes import OthersShare, Peak, processes_below, resident_bytes
from sparse_checkpoint import write_sparse_checkpoint

from r1trt.artifacts.export import ExportDirectory
from r1trt.estimate.known_models import KNOWN_MODELS

REPOSITORY = Path(__file__).resolve().parent.parent
# As they are published: how many files, and which are in FP8.
SHARDS = {
    "r1-671b": 163,
    "v2-lite": 4,
    "r1-distill-qwen-1.5b": 1,
    "r1-distill-qwen-7b": 2,
    "r1-distill-llama-70b": 17,
}
AIM_SECONDS, AIM_BYTES = 15.0, 0.8e9  # of R1-671B
PACKAGES = ("r1trt", "onnx", "onnx-ir", "numpy")


def resident_bytes_of_children() -> int:
    """The resident sets of this program's children; 0 where a process ended while they were read."""
    with suppress(OSError):
        return sum(map(resident_bytes, processes_below(os.getpid())[1:]))
    return 0


def raw_config(shape: str) -> tuple[dict[str, Any], int]:
    """A shape's config.json and number of shards, by name or from a file."""
    if shape in SHARDS:
        return dict(KNOWN_MODELS[shape]), SHARDS[shape]
    if not Path(shape).is_file():
        sys.exit(f"{shape} is no shape and no config.json; shapes are {', '.join(SHARDS)}")
    raw: dict[str, Any] = json.loads(Path(shape).read_text(encoding="utf-8"))
    return raw, 1


def measure(shape: str, work: Path, repeats: int) -> dict[str, Any]:
    """Writes a shape's checkpoint, exports it, and removes both; the figures of the median run."""
    raw, shards = raw_config(shape)
    checkpoint, output = work / "checkpoint", work / "output"
    command = [sys.executable, "-m", "r1trt", "export", str(checkpoint), "-o", str(output), "--json"]
    try:
        written = write_sparse_checkpoint(checkpoint, raw, shards)
        runs = [_run(command) for _ in range(repeats)]
        graph = graph_figures(output)
    finally:
        for directory in (checkpoint, output):
            shutil.rmtree(directory, ignore_errors=True)
    by_time = sorted(runs, key=lambda run: float(run["seconds"]))
    return {"shape": shape, "checkpoint": written, **by_time[len(runs) // 2], "runs": runs, **graph}


def _run(command: list[str]) -> dict[str, Any]:
    others, load = OthersShare(), os.getloadavg()[0]
    with Peak(resident_bytes_of_children) as peak:
        run = run_wrapped(command)
    return {
        "seconds": round(run["seconds"], 2),
        "cpu_seconds": round(run["cpu_seconds"], 2),
        "peak_bytes": max(peak.bytes, run["peak_bytes"]),
        "load_average_before": round(load, 2),
        "others_share_of_cpu": others.share(),
    }


def graph_figures(output: Path) -> dict[str, int]:
    """Bytes of an export and of its graph, top-level nodes (a call counts as one), and initializers."""
    import onnx

    path = ExportDirectory(path=output).graph
    graph = onnx.load(path, load_external_data=False).graph
    return {
        "bytes_written": tree_bytes(output),
        "graph_bytes": path.stat().st_size,
        "nodes": len(graph.node),
        "initializers": len(graph.initializer),
    }


def markdown(report: dict[str, Any]) -> str:
    """Renders a report as a page."""
    host = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"# Export of R1-671B and others at their own sizes, {report['date']}",
        "",
        "`r1trt export` of checkpoints with the true names, types and sizes of all tensors, whose weights "
        "are holes in sparse files: an export reads headers only. R1-671B has FP8 weights with block scales "
        "as published, the others are BF16. From the start of the process to its end, with imports and "
        f"ONNX's checker; headers are in the page cache. The median of "
        f"{report['repeats']} run(s) by wall time.",
        "",
        f"{host['cpu']}, {host['cores']} cores, {host['memory_gb']} GB, Python {host['python']}, {versions}. "
        f"{report['note']}".rstrip(),
        "",
        "| shape | checkpoint, GB | tensors | files | wall time, s | CPU time, s | peak memory, GB | "
        "model.onnx, MB | nodes | initializers | load before | CPU of others |",
        "|---" * 12 + "|",
        *(_row(each) for each in report["measurements"]),
        "",
        "Peak memory is the largest sum of the resident sets of the run's processes, or the largest of one "
        "process where that is more. CPU of others is the part of all cores' time that went to other "
        "programs while it ran.",
    ]
    for each in report["measurements"]:
        if each["shape"] == "r1-671b":
            lines += ["", verdict(each)]
    lines += [
        "",
        "No other exporter takes a checkpoint without weights. Three are compared on models of R1's form "
        "(`deepseek-peers-*.md`), two on one of [1.78 billion parameters](export-2026-11-24.md).",
    ]
    return "\n".join(lines) + "\n"


def _row(each: dict[str, Any]) -> str:
    checkpoint = each["checkpoint"]
    cells = (
        each["shape"],
        f"{checkpoint['bytes'] / 1e9:,.1f}",
        f"{checkpoint['tensors']:,}",
        str(checkpoint["shards"]),
        f"{each['seconds']:.1f}",
        f"{each['cpu_seconds']:.1f}",
        f"{each['peak_bytes'] / 1e9:.2f}",
        f"{each['graph_bytes'] / 1e6:.1f}",
        f"{each['nodes']:,}",
        f"{each['initializers']:,}",
        f"{each['load_average_before']:.1f}",
        f"{each['others_share_of_cpu']:.0%}",
    )
    return "| " + " | ".join(cells) + " |"


def verdict(each: dict[str, Any]) -> str:
    """Says whether R1's export stays below what it may take."""
    met = each["seconds"] < AIM_SECONDS and each["peak_bytes"] < AIM_BYTES
    return (
        f"R1-671B is to take less than {AIM_SECONDS:.0f} s and {AIM_BYTES / 1e9:.1f} GB: "
        f"{'met' if met else 'missed'}, with {each['seconds']:.1f} s and {each['peak_bytes'] / 1e9:.2f} GB."
    )


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures every shape and returns the report."""
    rows = []
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    for shape in arguments.shapes.split(","):
        print(f"{shape} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=arguments.work_dir, prefix="r1-export-") as work:
            rows.append(measure(shape, Path(work), arguments.repeats))
    return {
        "date": datetime.date.today().isoformat(),
        "repeats": arguments.repeats,
        "machine": machine(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "note": arguments.note,
        "measurements": rows,
    }


def main() -> None:
    """Parses the command line, measures, and writes the figures and the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shapes", default=",".join(SHARDS), help="names or config.json files, with commas")
    parser.add_argument("--repeats", type=int, default=1, help="runs of every shape")
    parser.add_argument("--note", default="", help="what else ran on the machine, for the page")
    parser.add_argument(
        "--work-dir", type=Path, default=Path(tempfile.gettempdir()), help="place for the files"
    )
    parser.add_argument("--report-dir", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    parser.add_argument("--json", action="store_true", help="print the figures instead of the page")
    arguments = parser.parse_args()
    report = benchmark(arguments)
    figures, text = json.dumps(report, indent=2) + "\n", markdown(report)
    arguments.report_dir.mkdir(parents=True, exist_ok=True)
    path = arguments.report_dir / f"r1-export-{report['date']}"
    path.with_suffix(".json").write_text(figures, encoding="utf-8")
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(figures if arguments.json else text, end="")


if __name__ == "__main__":
    main()
