"""The whole line on real weights, without a GPU: SmolLM2 exported, built twice, validated, asked a question.

Runs the commands that a user would, prints each before it runs, and ends with times, sizes and places.

    make demo
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1trt.cli.output import table_lines
from r1trt.text import size_text

ENGINES = Path("engines")
CHECKPOINT = ENGINES / "checkpoints" / "SmolLM2"
EXPORT = ENGINES / "SmolLM2"
QUESTION, ANSWER = "What is the capital of France?", "Paris"
GREEDY = ("--max-new-tokens", "64", "--temperature", "0")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command that ran.

    Attributes:
        name: What the table calls it.
        seconds: Wall time.
        output: What it made; None for a step that writes nothing of its own.
        result: Its `--json` result; empty for a script.
    """

    name: str
    seconds: float
    output: Path | None
    result: dict[str, Any]


def run(name: str, command: Sequence[str], output: Path | None, *, as_json: bool = True) -> Step:
    """Runs a command; its progress goes to this process's stderr.

    Raises:
        SystemExit: It failed; the exit code is the command's.
    """
    print(f"\n$ {shlex.join(command)}", flush=True)
    program = [sys.executable, *(["-m", "r1trt"] if command[0] == "r1trt" else []), *command[1:]]
    started = time.perf_counter()
    done = subprocess.run([*program, *(["--json"] if as_json else [])], stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise SystemExit(done.returncode)
    return Step(name=name, seconds=seconds, output=output, result=json.loads(done.stdout) if as_json else {})


def steps() -> list[Step]:
    """Runs everything, from a checkpoint to an answer."""
    made = []
    if not CHECKPOINT.exists():
        make = ["python", "scripts/make_smollm2.py", "-o", str(CHECKPOINT)]
        made.append(run("make the checkpoint", make, CHECKPOINT, as_json=False))
    export = ["r1trt", "export", str(CHECKPOINT), "-o", str(EXPORT), "--max-seq-len", "2048"]
    made.append(run("export", export, EXPORT / "model.onnx"))
    for options in (["--arch", "ada", "--fp8"], ["--arch", "cpu", "--int8"]):
        label = " ".join(options)
        build = run(f"build {label}", ["r1trt", "build", str(EXPORT), *options], None)
        engine = Path(build.result["path"])
        made.append(Step(name=build.name, seconds=build.seconds, output=engine, result=build.result))
        report = engine / "report.html"
        # NOTES: FP8 is the step that loses accuracy, so it is measured on more text.
        tokens = ["--max-tokens", "4096"] if "--fp8" in options else []
        made.append(run(f"validate {label}", ["r1trt", "validate", str(engine), *tokens], report))
    ask = ["r1trt", "generate", str(engine), "--prompt", QUESTION, *GREEDY]
    made.append(run("generate", ask, None))
    return made


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a directory."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")))


def main() -> int:
    """Runs the demo; returns 0 when the answer is right."""
    started = time.perf_counter()
    made = steps()
    answer = made[-1].result["text"]
    print(f"\n{QUESTION}\n{answer}\n")
    rows = [
        (
            step.name,
            f"{step.seconds:.1f} s",
            size_text(size_of(step.output)) if step.output else "",
            step.output or "",
        )
        for step in made
    ]
    print("\n".join(table_lines(("step", "time", "size", "where"), rows)))
    print(f"\n{time.perf_counter() - started:.0f} s in all")
    if ANSWER not in answer:
        print(f"demo failed: the answer does not name {ANSWER}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
