"""Memory of a model in parts that run in one process: anonymous memory and mapped weights, at their peaks.

    python scripts/benchmark_parts_memory.py engines/SmolLM2 --parts 6

The export is built whole and in parts for the CPU, in FP32. Each arrangement reads a prompt and generates in
a process of its own, which looks at its memory every two milliseconds. The bound is the weights of the parts
that may be there together, and the caches.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from receipts import write_receipt

from r1trt.artifacts.build import BuildArtifact
from r1trt.artifacts.parts import PartsArtifact
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.runtime.engine_session import session_from_build
from r1trt.runtime.onnxruntime_model import LoadOptions, onnxruntime_module
from r1trt.runtime.residency import residency

REPOSITORY = Path(__file__).resolve().parent.parent
INTERVAL_S = 0.002
CALL, CAPACITY, NEW_TOKENS = 128, 512, 8
STATUS = Path("/proc/self/status")
KINDS = {"anonymous": "RssAnon:", "mapped": "RssFile:"}


def resident() -> dict[str, int]:
    """Bytes of this process that are in memory: its own, and those of files that it maps."""
    lines = dict(line.split("\t", 1) for line in STATUS.read_text().splitlines() if "kB" in line)
    return {kind: 1024 * int(lines[key].split()[0]) for kind, key in KINDS.items()}


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """Peaks of a block, above what there was in front of it."""
    before, peaks, ended = resident(), dict.fromkeys(KINDS, 0), threading.Event()

    def watch() -> None:
        while not ended.wait(INTERVAL_S):
            now = resident()
            for kind in KINDS:
                peaks[kind] = max(peaks[kind], now[kind] - before[kind])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        ended.set()
        watcher.join()


def measured(engine: Path, memory: int | None, threads: int | None) -> dict[str, Any]:
    """Loads an engine, reads a prompt and generates; what that took."""
    onnxruntime_module()
    build = BuildArtifact.read(engine)
    started = time.perf_counter()
    with watched() as peaks:
        options = LoadOptions(threads=threads, huge_page_seconds=0, memory=memory)
        with closing(session_from_build(build, options)) as session:
            session.reset(1)
            loaded = time.perf_counter()
            ids = np.random.default_rng(1).integers(3, 200, (1, CALL))
            one, past = np.ones(1, np.int64), np.array([CALL])
            logits = session.step(ids, CALL * one, 0 * one, only_last=True)
            read, tokens = time.perf_counter(), []
            for _ in range(NEW_TOKENS):
                tokens.append(int(logits[0, -1].argmax()))
                logits = session.step(np.array([[tokens[-1]]]), one, past, only_last=True)
                past = past + 1
            ended = time.perf_counter()
    return {
        "peaks": peaks,
        "seconds": {
            "load": round(loaded - started, 3),
            "prompt": round(read - loaded, 3),
            "token": round((ended - read) / NEW_TOKENS, 4),
        },
        "tokens": tokens,
    }


def in_process(engine: Path, memory: int | None, threads: int | None) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, str(engine), "--worker", "--memory", str(memory or 0)]
    command += [] if threads is None else ["--threads", str(threads)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def rooms(sizes: Sequence[int], caches: int) -> Mapping[str, int]:
    """Memory for each arrangement."""
    largest = sorted(sizes, reverse=True)
    return {
        "one part at a time": caches + largest[0],
        "the next one loaded ahead": caches + sum(largest[:2]),
        "all parts": caches + sum(sizes),
    }


def measure_all(options: argparse.Namespace) -> dict[str, Any]:
    """All arrangements, and the bound of each."""
    base = BuildConfig(
        model=options.model, arch="cpu", precision="fp32", max_batch_size=1, max_input_len=CALL,
        max_seq_len=CAPACITY,
    )  # fmt: skip
    work = options.work or options.model
    whole = build_engine(_with(base, output=work / "memory-whole"))
    parts = build_engine(_with(base, parts=options.parts, output=work / "memory-parts"))
    artifact = BuildArtifact.read(parts)
    sizes = [part.weights.stat().st_size for part in PartsArtifact.of(artifact).parts()]
    caches = artifact.manifest.kv_cache_bytes
    rows = {"one engine": in_process(whole, None, options.threads) | {"bound": caches + sum(sizes)}}
    for name, room in rooms(sizes, caches).items():
        bound = residency(sizes, room - caches).bytes(sizes) + caches
        rows[name] = in_process(parts, room, options.threads) | {"bound": bound}
    return {"part_bytes": sizes, "cache_bytes": caches, "rows": rows, "machine": machine()}


def _with(config: BuildConfig, **changes: Any) -> BuildConfig:
    return BuildConfig(**{**vars(config), **changes})


def page(document: Mapping[str, Any]) -> str:
    """The figures as a table."""
    mb = 1e6
    sizes = ", ".join(f"{size / mb:.0f}" for size in document["part_bytes"])
    lines = [
        "# Memory of a model in parts, one process",
        "",
        f"`scripts/benchmark_parts_memory.py`, {document['model']} in FP32 on "
        f"{document['machine']['cpu']}, {document['date']}. Parts of {sizes} MB; caches of "
        f"{document['cache_bytes'] / mb:.0f} MB. Peaks above what the process had with its libraries loaded; "
        "anonymous memory is the process's own, mapped memory pages of the weight files, which the kernel "
        "may take away. Times are of a machine that others used at the same time.",
        "",
        "| arrangement | bound, MB | anonymous, MB | mapped, MB | load, s | a token, s |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in document["rows"].items():
        peaks, seconds = row["peaks"], row["seconds"]
        sizes = " | ".join(f"{size / mb:.0f}" for size in (row["bound"], *peaks.values()))
        lines.append(f"| {name} | {sizes} | {seconds['load']:.2f} | {seconds['token']:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="an export")
    parser.add_argument("--parts", type=int, default=6)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--work", type=Path, help="where to build; default: in MODEL")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--memory", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measured(options.model, options.memory or None, options.threads)))
        return
    date = datetime.date.today().isoformat()
    document = {"model": options.model.name, "date": date, **measure_all(options)}
    print(write_receipt(options.output, f"parts-memory-{date}", document, page(document)).read_text())


if __name__ == "__main__":
    main()
