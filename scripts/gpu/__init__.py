"""The parts of `gpu_check.py`: what is built, checked and timed on a GPU.

Cases, references in FP64 and the harness that plays TensorRT are those of the tests.
"""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
WORK = REPOSITORY / "build" / "gpu"

for _path in (REPOSITORY, REPOSITORY / "tests" / "plugins"):
    if str(_path) not in sys.path:
        sys.path.insert(0, str(_path))
