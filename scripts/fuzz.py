"""Feeds mutated files to every reader, and looks for tracebacks, hangs, memory that grows, and crashes.

    python scripts/fuzz.py --inputs 20000 --seed 1 --jobs 2

An input is made of a valid file by its reader's name, the seed and its number, so that
`--readers NAME --number N` makes it again. Inputs run in processes of their own, each for 10 seconds and 1 GB
of growth at most, children counted. What fails is kept in a folder, and ends the program with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from fuzz_corpus import make_corpus
from fuzz_readers import READERS
from machine import machine
from processes import processes_below, resident_bytes

SECONDS, MEMORY_BYTES = 10.0, 10**9
_POLL_S = 0.05
_START_S = 120.0


@dataclass
class Count:
    """What became of a reader's inputs."""

    inputs: int = 0
    parsed: int = 0
    refused: int = 0
    failures: int = 0
    slowest_s: float = 0.0
    most_bytes: int = 0


@dataclass
class Run:
    """Everything that is found, by any thread."""

    seed: str
    kept: Path
    counts: dict[str, Count]
    failures: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, reader: str, number: int, reply: dict[str, Any], folder: Path) -> None:
        """Counts an input; keeps one that failed."""
        with self.lock:
            count = self.counts[reader]
            count.inputs += 1
            count.parsed += reply["parsed"]
            count.refused += reply["outcome"] == "refused"
            count.slowest_s = max(count.slowest_s, round(reply["seconds"], 2))
            count.most_bytes = max(count.most_bytes, reply["growth"])
            if reply["outcome"] in ("refused", "taken"):
                return
            count.failures += 1
            kept = self.kept / f"{reader.replace(' ', '-')}-{self.seed}-{number}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept, symlinks=True, ignore=_what_cannot_be_copied)
            (kept / "outcome.txt").write_text(f"{reply['outcome']}\n{reply['text']}", encoding="utf-8")
            self.failures.append({"reader": reader, "number": number, **reply, "kept": str(kept)})


def _what_cannot_be_copied(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if (path := Path(folder, name)).is_fifo() or path.stat().st_size > 1 << 26}


class Worker:
    """A process that is given inputs, and killed where one goes beyond the limits."""

    def __init__(self, corpus: Path) -> None:
        script = Path(__file__).with_name("fuzz_worker.py")
        path = os.pathsep.join(
            item for item in (str(script.parents[1]), os.environ.get("PYTHONPATH")) if item
        )
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(corpus)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"},
            text=True,
            start_new_session=True,
        )
        self._answer(_START_S, None)

    def try_input(self, request: dict[str, Any]) -> dict[str, Any]:
        """What becomes of an input; ends the process where it hangs, grows or dies."""
        assert self._process.stdin is not None
        began = time.monotonic()
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        reply = self._answer(SECONDS, self._tree_bytes())
        if reply["growth"] > MEMORY_BYTES and reply["outcome"] in ("refused", "taken"):
            reply |= {"outcome": "memory", "text": f"{reply['growth'] >> 20} MB"}
        return reply | {"seconds": time.monotonic() - began}

    @property
    def is_alive(self) -> bool:
        """Whether it can be given another input."""
        return self._process.poll() is None

    def close(self) -> None:
        """Ends it, with what it started."""
        for pid in reversed(processes_below(self._process.pid)):
            subprocess.run(["kill", "-9", str(pid)], stderr=subprocess.DEVNULL, check=False)
        self._process.communicate()

    def _answer(self, seconds: float, before: int | None) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        while not select.select([self._process.stdout], [], [], _POLL_S)[0]:
            grown = 0 if before is None else self._tree_bytes() - before
            if grown > MEMORY_BYTES:
                return self._ended("memory", f"{grown >> 20} MB", grown)
            if time.monotonic() > deadline:
                return self._ended("hang", f"more than {seconds:.0f} s", grown)
        line = self._process.stdout.readline()
        if not line:
            return self._ended("crash", f"exit status {self._process.wait()}", 0)
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _ended(self, outcome: str, text: str, grown: int) -> dict[str, Any]:
        self.close()
        return {"outcome": outcome, "text": text, "growth": grown, "parsed": True}

    def _tree_bytes(self) -> int:
        total = 0
        for pid in processes_below(self._process.pid):
            try:
                total += resident_bytes(pid)
            except (OSError, IndexError):
                continue
        return total


def work(run: Run, corpus: Path, inputs: SimpleQueue[tuple[str, int]]) -> None:
    """Tries inputs until there are none left."""
    worker = Worker(corpus)
    try:
        while True:
            reader, number = inputs.get_nowait()
            with tempfile.TemporaryDirectory(prefix="r1trt-fuzz-", dir=corpus.parent) as scratch:
                folder = Path(scratch, "input")
                request = {"seed": run.seed, "reader": reader, "number": number, "folder": str(folder)}
                reply = worker.try_input(request)
                run.record(reader, number, reply, folder)
            if not worker.is_alive:
                worker = Worker(corpus)
    except Empty:
        worker.close()


def table(counts: dict[str, Count]) -> str:
    """Counts by reader, and their sum."""
    rows = [
        f"{'reader':24}{'inputs':>8}{'parsed':>8}{'refused':>9}{'failures':>10}{'slowest':>9}{'memory':>9}"
    ]
    total = Count()
    for name, count in counts.items():
        rows.append(_row(name, count))
        for key in ("inputs", "parsed", "refused", "failures"):
            setattr(total, key, getattr(total, key) + getattr(count, key))
        total.slowest_s = max(total.slowest_s, count.slowest_s)
        total.most_bytes = max(total.most_bytes, count.most_bytes)
    return "\n".join([*rows, _row("all", total)])


def _row(name: str, count: Count) -> str:
    figures = f"{count.inputs:8}{count.parsed:8}{count.refused:9}{count.failures:10}"
    return f"{name:24}{figures}{count.slowest_s:7.1f} s{count.most_bytes >> 20:6} MB"


def parsed_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    names = [reader.name for reader in READERS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--inputs", type=int, default=2000, help="of all readers together")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="inputs at the same time")
    parser.add_argument(
        "--readers", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--number", type=int, help="this input of each reader alone")
    parser.add_argument("--json", type=Path, help="write the receipt there")
    parser.add_argument("--keep", type=Path, default=Path("engines/fuzz"), help="folder for inputs that fail")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, and prints what was found."""
    options = parsed_arguments(arguments)
    run = Run(options.seed, options.keep, {name: Count() for name in options.readers})
    inputs: SimpleQueue[tuple[str, int]] = SimpleQueue()
    for index in range(options.inputs if options.number is None else len(options.readers)):
        number = index // len(options.readers) if options.number is None else options.number
        inputs.put((options.readers[index % len(options.readers)], number))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="r1trt-fuzz-") as scratch:
        corpus = make_corpus(Path(scratch, "corpus"))
        threads = [threading.Thread(target=work, args=(run, corpus, inputs)) for _ in range(options.jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(table(run.counts))
    for failure in run.failures:
        last = (failure["text"].strip().splitlines() or [""])[-1][:200]
        print(f"{failure['outcome']}: {failure['reader']} {failure['number']}: {last} ({failure['kept']})")
    if options.json:
        _write_receipt(options, run, time.monotonic() - began)
    return 1 if run.failures else 0


def _write_receipt(options: argparse.Namespace, run: Run, seconds: float) -> None:
    receipt = {
        "command": " ".join(["python scripts/fuzz.py", *sys.argv[1:]]),
        "machine": machine(),
        "seconds": round(seconds, 1),
        "limits": {"seconds": SECONDS, "bytes": MEMORY_BYTES},
        "seed": options.seed,
        "readers": {name: asdict(count) for name, count in run.counts.items()},
        "failures": run.failures,
    }
    options.json.write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
