"""The repository's scripts, run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
MAKE_SMOLLM2 = REPOSITORY / "scripts" / "make_smollm2.py"


def run_script(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a script of this repository in its own process."""
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
