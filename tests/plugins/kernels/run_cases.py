"""Runs cases on one library, in a process of its own: a sanitizer's, or one that a planted defect may crash.

`python -m kernels.run_cases LIBRARY OPERATOR [--quick] [--case NAME]... [--schedule SEED:LANDING]...`; exits
with 0 if every case passes in every schedule, and with 3 after all of them where one does not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from kernels.build import sanitizer_environment
from kernels.library import HostKernels

from r1trt.plugin_checks.cases.operators import OPERATORS
from r1trt.plugin_checks.cases.selection import LARGER

FAILED = 3
TESTS = Path(__file__).resolve().parents[1]
REPOSITORY = TESTS.parents[1]


def run_cases(
    library: Path,
    sanitizer: str,
    operator: str,
    *,
    cases: Sequence[str] = (),
    schedules: Sequence[tuple[int, int]] = ((0, 0),),
    timeout_s: float = 600,
) -> subprocess.CompletedProcess[str]:
    """Runs this module on a library in another process.

    Args:
        library: What `build_library` returned for `sanitizer`.
        sanitizer: `plain`, `asan` or `tsan`.
        operator: A key of `OPERATORS`.
        cases: Names of cases, of those too that only a GPU is to run; none: all but these.
        schedules: Seeds, and when copies land.
        timeout_s: Ends a process that hangs.
    """
    environment = sanitizer_environment(sanitizer)
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(REPOSITORY)])
    command = [sys.executable, "-m", "kernels.run_cases", str(library), operator]
    command += [f"--case={case}" for case in cases]
    command += [f"--schedule={seed}:{landing}" for seed, landing in schedules]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=timeout_s
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("library", type=Path)
    parser.add_argument("operator", choices=OPERATORS)
    parser.add_argument("--schedule", action="append", default=[])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--case", action="append", default=[])
    return parser


def main() -> int:
    """Runs what the arguments ask for, each schedule after the other."""
    arguments = _parser().parse_args()
    library, operator = HostKernels(arguments.library), OPERATORS[arguments.operator]
    cases = {str(case): case for case in (operator.quick if arguments.quick else operator.cases)}
    known = cases | {str(case): case for case in LARGER[arguments.operator]}
    failed = False
    for schedule in arguments.schedule or ["0:0"]:
        seed, landing = map(int, schedule.split(":"))
        library.configure(seed=seed, landing=landing)
        for name in arguments.case or cases:
            begin = time.monotonic()
            try:
                error = operator.run(library, known[name])
                print(f"{time.monotonic() - begin:6.2f} s  {error:.3f}  {name}", flush=True)
            except AssertionError as failure:
                print(f"schedule {schedule}: {name}: {failure}", flush=True)
                failed = True
    return FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main())
