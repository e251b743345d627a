"""An operator's quick cases on the GPU, in a process that a sanitizer watches.

Arguments: the kernels' library, the operator, the compute capability, the seed. Exits with 1 if a case fails.
"""

from __future__ import annotations

import sys
from pathlib import Path

from r1trt.plugin_checks.cases.selection import cases_of, drawn, fitted
from r1trt.plugin_checks.check import checked, describe
from r1trt.plugin_checks.device_kernels import DeviceKernels


def main(library_path: str, operator: str, sm: str, seed: str) -> int:
    """Runs the cases."""
    library = DeviceKernels(Path(library_path), on_gpu=True)
    passed = True
    for case in cases_of(operator, on_gpu=True, quick=True):
        entry = checked(library, operator, fitted(drawn(case, int(seed)), int(sm), on_gpu=True))
        passed = passed and entry["passed"]
        print(describe(entry), *([] if entry["passed"] else [entry["why"]]), flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
