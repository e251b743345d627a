"""Searches precision plans for several architectures, builds them, and writes what came of it.

python scripts/benchmark_precision.py EXPORT --name NAME [--arch ada]... [-o DIR]

For each architecture: `r1trt precision search` in a process of its own (seconds, peak memory), `r1trt build`
with the plan that it found, and how the network and the engine obey it. One JSON file and one page in DIR, by
default docs/benchmarks. Each search begins from nothing, with an empty cache; --keep-cache leaves it what
earlier ones measured, and then its seconds say little.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from receipts import write_receipt

from r1trt.cache import CACHE_VARIABLE

REPOSITORY = Path(__file__).resolve().parent.parent
HEADER = (
    "| plan | quantized | FP8 | MB | modelled ms | KL, nats | perplexity (95 % interval) | agreement |",
    "|---|---:|---:|---:|---:|---:|---|---:|",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    day = datetime.now(UTC).date().isoformat()
    with tempfile.TemporaryDirectory() as empty:
        cache = {} if options.keep_cache else {CACHE_VARIABLE: empty}
        results = {arch: measured(options, arch, cache) for arch in options.arch or ["ada"]}
    first = next(iter(results.values()))
    first["from_nothing"] = not options.keep_cache
    document = {
        "model": options.name,
        "day": day,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "results": results,
    }
    name = f"precision-search-{options.name.lower()}-{day}"
    print(write_receipt(options.output, name, document, page(document)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--arch", action="append", help="architecture; may be given several times")
    parser.add_argument("--max-perplexity-increase", default="1%")
    parser.add_argument("--name", required=True, help="the model's name, for the files")
    parser.add_argument("--keep-cache", action="store_true", help="let the first search use what is known")
    parser.add_argument("-o", "--output", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    return parser


def measured(options: argparse.Namespace, arch: str, cache: Mapping[str, str]) -> dict[str, Any]:
    """One architecture: search, build, and what both say; what the ones before measured is in the cache."""
    found = options.export / f"{arch}-searched"
    search = run(
        "precision", "search", options.export, "--arch", arch, "--scores", "-o", found,
        "--max-perplexity-increase", options.max_perplexity_increase, **cache,
    )  # fmt: skip
    engine = options.export / f"{arch}-searched-engine"
    build = run("build", options.export, "--arch", arch, "--plan", found / "plan.yaml", "-o", engine)
    figures = json.loads((found / "search.json").read_text(encoding="utf-8"))
    manifest = json.loads((engine / "manifest.json").read_text(encoding="utf-8"))
    layers = json.loads((engine / "layers.json").read_text(encoding="utf-8"))["layers"]
    return {
        "from_nothing": False,
        "cores": len(os.sched_getaffinity(0)),
        "search": search,
        "build": build,
        "facts": figures["facts"],
        "chosen": figures["chosen"],
        "points": [point for point in figures["points"] if point["final"]],
        "front": [{k: point[k] for k in ("predicted", "seconds", "bytes")} for point in figures["front"]],
        "correlations": {name: figures["scores"][f"{name}_correlation"] for name in ("fisher", "error")},
        "network": manifest["network_check"],
        "engine_bytes": [entry["bytes"] for entry in manifest["engines"]],
        "executed": {
            text: sum(text in layer["executed"] for layer in layers)
            for text in sorted({text for layer in layers for text in layer["executed"]})
        },
    }


def run(*arguments: object, **environment: str) -> dict[str, float]:
    """Runs a command of r1trt; returns its seconds and peak memory in bytes."""
    command = [sys.executable, "-m", "r1trt", *map(str, arguments)]
    started = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, **environment})
    # wait4 says what this one process took; its own children are counted by it.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds = round(time.perf_counter() - started, 1)
    return {"seconds": seconds, "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_bytes": usage.ru_maxrss * 1024}  # fmt: skip


def page(document: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [f"# Precision by layer of {document['model']}, {document['day']}", ""]
    lines += [
        "Computed in ONNX Runtime on a CPU, with every rounding of the types; engines were built, not run.",
        "Times are modelled by the roofline. Held-out text is what neither calibration nor search has read.",
        "",
    ]
    for arch, result in document["results"].items():
        lines += _section(arch, result)
    return "\n".join(lines)


def _section(arch: str, result: Mapping[str, Any]) -> list[str]:
    facts, network, search = result["facts"], result["network"], result["search"]
    ranks = result["correlations"]
    lines = [f"## {arch}", "", *HEADER]
    lines += [_row(point) for point in (result["chosen"], *result["points"])]
    executed = ", ".join(f"{count} layers {text}" for text, count in result["executed"].items())
    lines += [
        "",
        f"Held out: {facts['final_tokens']} tokens. {facts['choices']} choices measured on "
        f"{facts['screen_tokens']} tokens, whole plans on {facts['search_tokens']}. {facts['device']}.",
        f"Calibration and search{'' if result['from_nothing'] else ', with what earlier ones measured'}: "
        f"{search['seconds'] / 60:.1f} minutes ({search['cpu_seconds'] / 60:.1f} of CPU time), at most "
        f"{search['peak_bytes'] / 1e9:.1f} GB on {result['cores']} cores, the scores below among them.",
        f"No choices of the searched plan's predicted damage take less than {1e3 * facts['least_cost']:.2f} "
        "ms, the bound of the linear program.",
        f"Rank correlation with measured damage: Fisher {ranks['fisher']:.3f}, error of the result "
        f"{ranks['error']:.3f}.",
        f"Network: {network['obeyed']} layers as planned, {network['disobeyed']} not, "
        f"{network['unverified']} up to a fused kernel. Executed, where the engine says it: {executed}.",
        "",
    ]
    return lines


def _row(point: Mapping[str, Any]) -> str:
    final = point["final"]
    ppl = final["perplexity_increase"]
    return (
        f"| {point['name']} | {100 * point['narrow_share']:.1f} % | {100 * point['fp8_share']:.1f} % | "
        f"{point['bytes'] / 1e6:.1f} | "
        f"{1e3 * point['seconds']:.2f} | {final['kl']['mean']:.4f} | {100 * ppl['mean']:+.2f} % "
        f"({100 * ppl['low']:+.2f} to {100 * ppl['high']:+.2f}) | {100 * final['agreement']:.2f} % |"
    )


if __name__ == "__main__":
    sys.exit(main())
