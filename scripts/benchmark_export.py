"""Measures exporting a checkpoint to ONNX: r1trt, ONNX Runtime GenAI's builder and plain torch.onnx.export.

One random checkpoint of Qwen2-1.5B's shape with an untied head (1.78 billion parameters, BF16) is made once.
Every exporter then runs in a child process of its own. Measured are wall time, the largest resident set of
any process of the run, the bytes in the output directory and the graph's top-level nodes (a function call
counts as one).

    python scripts/benchmark_export.py
    python scripts/benchmark_export.py --layers 2      # a quick trial
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from export_peers import PEER_PACKAGES, Exporter, exporters, make_peer_environment
from machine import machine, tree_bytes
from random_checkpoint import CONFIG, make_checkpoint, tensor_shapes

from r1trt.cache import cache_directory

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = cache_directory() / "benchmark-export"
# Runs a command and prints its wall time, its processor time and the peak of its processes. It is a process
# of its own and a small one, because a child's resident set starts as its parent's.
WRAPPER = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
seconds, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak, "code": code}))
"""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a run of an exporter cost; bytes and seconds."""

    name: str
    seconds: float
    seconds_of_runs: list[float]
    peak_bytes: int
    bytes_written: int
    nodes: int


def measure(exporter: Exporter, checkpoint: Path, work: Path, repeats: int) -> Measurement:
    """Runs an exporter, each time into a fresh directory that is removed afterwards."""
    runs = []
    output, scratch = work / "output", work / "scratch"
    for _ in range(repeats):
        remove(output, scratch)
        places = {"checkpoint": checkpoint, "output": output, "scratch": scratch}
        runs.append(run_wrapped([part.format(**places) for part in exporter.command]))
        size, nodes = tree_bytes(output), node_count(output / exporter.model)
        remove(output, scratch)
    seconds = [run["seconds"] for run in runs]
    return Measurement(
        name=exporter.name,
        seconds=median(seconds),
        seconds_of_runs=seconds,
        peak_bytes=max(run["peak_bytes"] for run in runs),
        bytes_written=size,
        nodes=nodes,
    )


def remove(*directories: Path) -> None:
    """Removes directories that may not exist."""
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def measured_run(command: list[str]) -> tuple[dict[str, Any], str]:
    """Runs a command inside the wrapper; returns what it measured, and what the command printed."""
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    wrapped = [sys.executable, "-S", "-E", "-c", WRAPPER, *command]
    result = subprocess.run(wrapped, env=environment, capture_output=True, text=True, check=False)
    return json.loads(result.stdout) if result.stdout else {"code": result.returncode}, result.stderr


def run_wrapped(command: list[str]) -> dict[str, Any]:
    """Runs a command inside the wrapper; ends the program with the command's own words when it fails."""
    run, printed = measured_run(command)
    if run["code"]:
        sys.exit(f"{' '.join(command)}\nfailed with exit code {run['code']}:\n{printed[-4000:]}")
    return run


def node_count(path: Path) -> int:
    """Counts the main graph's nodes."""
    import onnx

    return len(onnx.load(path, load_external_data=False).graph.node)


def markdown(report: dict[str, Any]) -> str:
    """Renders a report as a table; ratios are against the first row."""
    rows, host = report["measurements"], report["machine"]
    first = rows[0]
    lines = [
        f"# Export of {report['parameters'] / 1e9:.2f} billion parameters in BF16, {report['date']}",
        "",
        f"Random weights of Qwen2-1.5B's shape, {report['layers']} layers, untied head. {host['cpu']}, "
        f"{host['cores']} cores, {host['memory_gb']} GB, Python {host['python']}. Median of "
        f"{report['repeats']} run(s) with the checkpoint in the page cache; in brackets: how many times the "
        "first row's.",
        "",
        "| exporter | wall time, s | peak memory, GB | bytes written, MB | top-level nodes |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            (row["seconds"], first["seconds"], f"{row['seconds']:.2f}"),
            (row["peak_bytes"], first["peak_bytes"], f"{row['peak_bytes'] / 1e9:.2f}"),
            (row["bytes_written"], first["bytes_written"], f"{row['bytes_written'] / 1e6:,.1f}"),
            (row["nodes"], first["nodes"], str(row["nodes"])),
        )
        related = (
            f"{text} ({value / unit:,.1f}x)" if row is not first else text for value, unit, text in cells
        )
        lines.append(f"| {row['name']} | " + " | ".join(related) + " |")
    lines += [
        "",
        "Peak memory is the largest resident set of one process. Peers: " + ", ".join(PEER_PACKAGES) + ".",
    ]
    return "\n".join(lines) + "\n"


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Makes what is needed, measures every exporter, and returns the report."""
    import numpy as np

    peer_python = make_peer_environment(arguments.peer_env)
    checkpoint = arguments.work_dir / f"qwen2-{arguments.layers}-layers"
    make_checkpoint(checkpoint, arguments.layers)
    config = {**CONFIG, "num_hidden_layers": arguments.layers}
    rows = []
    for exporter in exporters(peer_python):
        print(f"{exporter.name} ...", flush=True)
        rows.append(asdict(measure(exporter, checkpoint, arguments.work_dir, arguments.repeats)))
    return {
        "date": datetime.date.today().isoformat(),
        "layers": arguments.layers,
        "repeats": arguments.repeats,
        "parameters": sum(int(np.prod(shape)) for _, shape in tensor_shapes(config)),
        "checkpoint_bytes": tree_bytes(checkpoint),
        "machine": machine(),
        "peers": list(PEER_PACKAGES),
        "measurements": rows,
    }


def main() -> None:
    """Parses the command line, measures, prints the table and writes it beside the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", type=int, default=CONFIG["num_hidden_layers"], help="decoder layers")
    parser.add_argument("--repeats", type=int, default=1, help="runs of every exporter")
    parser.add_argument("--work-dir", type=Path, default=CACHE, help="place for the checkpoint and outputs")
    parser.add_argument(
        "--peer-env", type=Path, default=CACHE / "peers", help="virtual environment of the peers"
    )
    parser.add_argument("--report-dir", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    arguments = parser.parse_args()
    report = benchmark(arguments)
    text = markdown(report)
    arguments.report_dir.mkdir(parents=True, exist_ok=True)
    path = arguments.report_dir / f"export-{report['date']}"
    path.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
