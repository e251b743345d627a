"""Compares exporters on random models of DeepSeek-R1's form: what they export, and how near to transformers.

Three layers, YaRN as R1 has it, and more and more experts; small enough that every exporter can be run.
Logits are compared with transformers' in FP32. mobius-onnx reads no checkpoint with a tensor for every
expert, as all are published, and gets one with stacked experts besides.

    python scripts/benchmark_deepseek_peers.py
    python scripts/benchmark_deepseek_peers.py --experts 16 --json
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from benchmark_export import measured_run
from deepseek_exporters import MOBIUS, Exporter, exporters
from export_peers import make_peer_environment
from machine import machine
from random_deepseek import TOKENS, with_stacked_experts, write_deepseek
from receipts import write_receipt

REPOSITORY = Path(__file__).resolve().parent.parent
EXPERTS = (16, 64, 256)
PACKAGES = ("r1trt", "transformers", "torch", "onnx", "onnxruntime")
LAST_LINE = 200


def main() -> int:
    """Runs the comparison and writes the receipt and its page."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--experts", type=int, nargs="+", default=EXPERTS, help="Experts of a layer.")
    parser.add_argument("--environment", type=Path, default=REPOSITORY / "build" / "deepseek-peers")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    parser.add_argument("--json", action="store_true", help="Print the receipt; write nothing.")
    arguments = parser.parse_args()
    make_peer_environment(arguments.environment, MOBIUS)
    peers = exporters(arguments.environment)
    with tempfile.TemporaryDirectory(prefix="deepseek-peers-") as directory:
        rows = [row for count in arguments.experts for row in compared(count, peers, Path(directory))]
    receipt = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "rows": rows,
    }
    if arguments.json:
        print(json.dumps(receipt, indent=1))
        return 0
    write_receipt(arguments.output, f"deepseek-peers-{receipt['date']}", receipt, page(receipt))
    print(page(receipt))
    return 0


def compared(experts: int, peers: list[Exporter], directory: Path) -> list[dict[str, Any]]:
    """A row for each exporter."""
    published, reference = write_deepseek(directory / f"published-{experts}", experts=experts)
    checkpoints = {False: published, True: with_stacked_experts(published, directory / f"stacked-{experts}")}
    rows = []
    for peer in peers:
        output = directory / "output"
        shutil.rmtree(output, ignore_errors=True)
        row = {"experts": experts, "exporter": peer.name, **ran(peer, checkpoints[peer.stacked], output)}
        print(f"{experts} experts, {peer.name}: {row['says']}", file=sys.stderr, flush=True)
        if row["exit status"] == 0:
            row |= {**sizes(output / "model.onnx"), **difference(peer.logits(output), reference)}
        rows.append(row)
    return rows


def ran(peer: Exporter, checkpoint: Path, output: Path) -> dict[str, Any]:
    """Runs an exporter in a process of its own."""
    run, printed = measured_run([part.format(checkpoint=checkpoint, output=output) for part in peer.command])
    lines = [line for line in printed.replace("\r", "\n").splitlines() if peer.tells(line)]
    return {
        "exit status": run["code"],
        "seconds": round(run["seconds"], 1),
        "peak GB": round(run["peak_bytes"] / 1e9, 2),
        "says": (lines or [""])[-1].replace(f"{output.parent}/", "")[:LAST_LINE],
    }


def sizes(path: Path) -> dict[str, Any]:
    """Nodes of the graph, its file, and what its cache has for a token."""
    graph = ir.load(path).graph
    cache = [value for value in graph.inputs if "cache" in str(value.name) or "past_key" in str(value.name)]
    elements = sum(_per_token(list(value.shape or ())) for value in cache)
    return {
        "nodes": len(graph),
        "graph MB": round(path.stat().st_size / 1e6, 2),
        "cached elements of a token": elements or None,
    }


def _per_token(dims: list[Any]) -> int:
    """Heads times elements of [batch, heads, tokens, elements]."""
    return int(dims[1]) * int(dims[3])


def difference(got: np.ndarray, want: np.ndarray) -> dict[str, Any]:
    """How far logits are from transformers'."""
    return {
        "logits off by": float(np.abs(got - want).max()),
        "relative to the largest": float(np.abs(got - want).max() / np.abs(want).max()),
        "same next token": float((got.argmax(-1) == want.argmax(-1)).mean()),
    }


def page(receipt: Mapping[str, Any]) -> str:
    """The receipt as Markdown."""
    names = ("nodes", "graph MB", "cached elements of a token", "logits off by", "same next token")
    lines = [
        f"# Exporters on models of DeepSeek-R1's form, {receipt['date']}",
        "",
        "Random models of three layers, two of them with experts, YaRN of factor 40 as R1 has it, FP32; "
        f"logits of {TOKENS} tokens against transformers. Each exporter ran in a process of its own, one "
        "after the other. transformers' exporter was asked for a graph without a cache.",
        "",
        "`" + ", ".join(f"{name} {version}" for name, version in receipt["versions"].items()) + "`",
        "",
        f"| experts | exporter | exit status | s | peak GB | {' | '.join(names)} | it says |",
        f"|{'---|' * (len(names) + 6)}",
    ]
    for row in receipt["rows"]:
        figures = " | ".join(_figure(row.get(name)) for name in names)
        says = row["says"].replace("|", "\\|")
        lines.append(
            f"| {row['experts']} | {row['exporter']} | {row['exit status']} | {row['seconds']} | "
            f"{row['peak GB']} | {figures} | {says} |"
        )
    return "\n".join(lines) + "\n"


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
