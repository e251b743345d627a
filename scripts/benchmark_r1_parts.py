"""Measures how DeepSeek-R1 is planned in parts at its own size, and written with its experts as inputs.

The checkpoint has the true names, types and sizes of all tensors in sparse files. `r1trt build --dry-run`
plans the parts in a process of its own; then one part of each kind is written in front of its engine: graphs,
plan, profiles and constants. Expert stacks are inputs: no byte of them is read or written.

    python scripts/benchmark_r1_parts.py --work-dir /data
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark_export import run_wrapped
from benchmark_r1_export import raw_config
from machine import machine
from processes import OthersShare, Peak
from receipts import write_receipt
from sparse_checkpoint import write_sparse_checkpoint

from r1trt.artifacts.build import BuildArtifact
from r1trt.artifacts.manifest import MANIFEST_FILE
from r1trt.build.config import BuildConfig
from r1trt.build.parts import planned_build, write_part
from r1trt.build.prepare import prepared_build
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.parts.cut import part_graphs
from r1trt.parts.plan import PlannedPart

REPOSITORY = Path(__file__).resolve().parent.parent
AIM_SECONDS, AIM_BYTES = 60.0, 4e9


def anonymous_bytes() -> int:
    """Anonymous memory of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon:")).split()[1]) << 10


def kinds(parts: Sequence[PlannedPart]) -> list[PlannedPart]:
    """The first part, the last one, and one between them: those between hold layers of experts alone."""
    return [parts[index] for index in sorted({0, min(1, len(parts) - 1), len(parts) - 1})]


def measure_plan(export: Path, parts: int) -> dict[str, Any]:
    """The command that plans, from the start of its process to its end."""
    options = [
        "--arch",
        "hopper",
        "--fp8",
        "--parts",
        str(parts),
        "--external-experts",
        "--dry-run",
        "--json",
    ]
    others, load = OthersShare(), os.getloadavg()[0]
    run = run_wrapped([sys.executable, "-m", "r1trt", "build", str(export), *options])
    return {
        "seconds": round(run["seconds"], 1),
        "cpu_seconds": round(run["cpu_seconds"], 1),
        "peak_bytes": run["peak_bytes"],
        "load_average_before": round(load, 1),
        "others_share_of_cpu": others.share(),
    }


def measure_parts(export: Path, parts: int, work: Path) -> dict[str, Any]:
    """Writes one part of each kind; every directory is removed before the next one is written."""
    config = BuildConfig(model=export, arch="hopper", precision="fp8", parts=parts, external_experts=True)
    written = []
    with Peak(anonymous_bytes) as peak:
        prepared = prepared_build(export, config)
        planned = planned_build(prepared, config)
        graphs = part_graphs(prepared.export.model, [part.last_layer for part in planned])
        for part in kinds(planned):
            directory = Path(tempfile.mkdtemp(dir=work))
            started, cpu = time.monotonic(), time.process_time()
            try:
                build = write_part(
                    directory, graphs[part.index], prepared, prepared.plan, external_experts=True
                )
                figures = figures_of_part(build)
            finally:
                shutil.rmtree(directory)
            figures["seconds"] = round(time.monotonic() - started, 1)
            figures["cpu_seconds"] = round(time.process_time() - cpu, 1)
            written.append({"part": part.index, "layers": [part.first_layer, part.last_layer], **figures})
    return {
        "planned": [{"layers": [part.first_layer, part.last_layer], **asdict(part.cost)} for part in planned],
        "written": written,
        "peak_anonymous_bytes": peak.bytes,
    }


def figures_of_part(build: BuildArtifact) -> dict[str, Any]:
    """What a part's directory holds, and what its engine takes as inputs."""
    experts = build.manifest.external_experts
    return {
        "graph_bytes": build.typed_graph.stat().st_size,
        "constant_bytes": build.weights.stat().st_size,
        "manifest_bytes": (build.path / MANIFEST_FILE).stat().st_size,
        "inputs": 0 if experts is None else len(experts.stacks),
        "input_bytes": 0 if experts is None else experts.bytes,
        "tensors": 0 if experts is None else sum(len(stack.tensors) for stack in experts.stacks),
    }


def measure(shape: str, parts: int, work: Path) -> dict[str, Any]:
    """Makes a shape's checkpoint and export, unless they are there, and measures."""
    raw, shards = raw_config(shape)
    checkpoint, export = work / "checkpoint", work / "export"
    if not export.is_dir():
        write_sparse_checkpoint(checkpoint, raw, shards)
        export_checkpoint(ExportConfig(checkpoint=checkpoint, output=export))
    return {"plan": measure_plan(export, parts), **measure_parts(export, parts, work)}


def markdown(report: Mapping[str, Any]) -> str:
    """Renders a report as a page."""
    plan, host = report["plan"], report["machine"]
    rows = [
        f"| {each['part']} | {each['layers'][0]}-{each['layers'][1]} | {each['graph_bytes'] / 1e6:.1f} | "
        f"{each['constant_bytes'] / 1e9:.2f} | {each['inputs']} | {each['input_bytes'] / 1e9:.1f} | "
        f"{each['tensors']:,} | {each['seconds']:.0f} | {each['cpu_seconds']:.0f} |"
        for each in report["written"]
    ]
    peak = report["peak_anonymous_bytes"]
    met = plan["seconds"] < AIM_SECONDS and peak < AIM_BYTES
    lines = [
        f"# {report['shape']} in {report['parts']} parts, experts as inputs, {report['date']}",
        "",
        "A checkpoint of the true names, types and sizes whose weights are holes in sparse files. "
        f"{host['cpu']}, {host['cores']} cores, {host['memory_gb']} GB. {report['note']}".rstrip(),
        "",
        f"`r1trt build --arch hopper --fp8 --parts {report['parts']} --dry-run`: {plan['seconds']:.0f} s, "
        f"{plan['cpu_seconds']:.0f} s of CPU time; load before {plan['load_average_before']}, CPU of others "
        f"{plan['others_share_of_cpu']:.0%}.",
        "",
        "| part | layers | graph, MB | constants, GB | inputs | inputs, GB | tensors | wall time, s | "
        "CPU time, s |",
        "|---" * 9 + "|",
        *rows,
        "",
        f"Most anonymous memory of planning and writing together: {peak / 1e9:.2f} GB.",
        "",
        f"To be planned in less than {AIM_SECONDS:.0f} s and written in less than {AIM_BYTES / 1e9:.0f} GB: "
        f"{'met' if met else 'missed'}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parses the command line, measures, and writes the figures and the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", default="r1-671b", help="a name, or a config.json file")
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--note", default="", help="what else ran on the machine, for the page")
    parser.add_argument("--work-dir", type=Path, default=Path(tempfile.gettempdir()) / "r1-parts")
    parser.add_argument("--report-dir", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    arguments = parser.parse_args()
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    date = datetime.date.today().isoformat()
    report = {
        "date": date,
        "shape": arguments.shape,
        "parts": arguments.parts,
        "machine": machine(),
        "note": arguments.note,
        **measure(arguments.shape, arguments.parts, arguments.work_dir),
    }
    page = markdown(report)
    write_receipt(arguments.report_dir, f"r1-parts-{date}", report, page)
    print(page, end="")


if __name__ == "__main__":
    main()
