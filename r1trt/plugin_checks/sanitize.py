"""Stage `sanitize`: the cases again, under compute-sanitizer's memcheck and racecheck."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from r1trt.lifetime.children import child_group
from r1trt.plugin_checks.build import Built
from r1trt.plugin_checks.cases.operators import OPERATORS
from r1trt.plugin_checks.context import Context, Result

TOOLS = ("memcheck", "racecheck")
REPORTED = 66
LONGEST_S = 300
CORES_OF_A_RUN = 2
LAST_CHARACTERS = 3000
FOLDERS = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")


def find_sanitizer() -> Path | None:
    """compute-sanitizer: on the path, in $CUDA_HOME, or in /usr/local/cuda."""
    home = os.environ.get("CUDA_HOME")
    folders = [*([f"{home}/bin", f"{home}/compute-sanitizer"] if home else []), *FOLDERS]
    found = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=os.pathsep.join(folders)
    )
    return Path(found) if found else None


def run(context: Context, built: Built, previous: Result | None) -> Result:
    """Runs each tool on each operator's quick cases, in a process of its own.

    Returns:
        A result whose `runs` have `name`, `passed`, `seconds`; or `skipped`, the reason why there are none.
    """
    program = find_sanitizer()
    if not context.on_gpu or program is None:
        why = (
            "compute-sanitizer is not there"
            if context.on_gpu
            else "kernels on the CPU: nothing for compute-sanitizer"
        )
        return {"finished": True, "skipped": why, "runs": [], "failures": []}
    done = list(previous["runs"]) if previous else []
    names = {item["name"] for item in done}
    wanted = [(tool, operator) for tool in TOOLS for operator in OPERATORS]
    pending = [pair for pair in wanted if run_name(*pair) not in names]
    # Side by side: a run is mostly the CPU's, patching code and checking what a kernel reports.
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // CORES_OF_A_RUN)) as pool:
        runs = [pool.submit(sanitized, program, *pair, built, context) for pair in pending]
        for run_ended in as_completed(runs):
            entry = run_ended.result()
            if entry is None:
                continue
            done.append(entry)
            context.log(f"{'passed' if entry['passed'] else 'FAILED'}  {entry['name']}")
            context.save(_result(done, finished=False))
    return _result(done, finished=len(done) == len(wanted))


def sanitized(program: Path, tool: str, operator: str, built: Built, context: Context) -> Result | None:
    """One tool on one operator; None where this run's time ended before it did."""
    begin, limit = time.monotonic(), min(LONGEST_S, context.budget.left)
    if limit <= 0:
        return None
    command = [str(program), "--tool", tool, "--error-exitcode", str(REPORTED), sys.executable]
    command += ["-m", "r1trt.plugin_checks.check_child", str(built.kernels), operator]
    command += [str(context.sm), str(context.seed)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(CORES_OF_A_RUN)}
    entry: Result = {"name": run_name(tool, operator), "passed": False}
    try:
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=limit,
            stdin=subprocess.DEVNULL, process_group=child_group(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        if limit < LONGEST_S:
            return None
        return {**entry, "why": f"no end after {LONGEST_S} seconds", "seconds": LONGEST_S}
    entry |= {"passed": result.returncode == 0, "seconds": round(time.monotonic() - begin, 1)}
    if result.returncode == 0:
        return entry
    what = "a report" if result.returncode == REPORTED else f"exit status {result.returncode}"
    return {**entry, "why": f"{what}: {(result.stdout + result.stderr)[-LAST_CHARACTERS:]}"}


def run_name(tool: str, operator: str) -> str:
    """As the receipt has it."""
    return f"{tool}: {operator}"


def _result(done: list[Result], *, finished: bool) -> Result:
    failures = [{"name": item["name"], "why": item["why"]} for item in done if not item["passed"]]
    return {"finished": finished, "runs": done, "failures": failures}
