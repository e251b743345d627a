"""What happens around the import of ONNX Runtime."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from r1trt.runtime.onnxruntime_model import NO_TELEMETRY


def test_onnxruntime_sends_nothing_home(tmp_path: Path) -> None:
    program = """
from pathlib import Path
import sys
from r1trt.runtime.onnxruntime_model import LoadOptions, inference_session
from r1trt.errors import R1TrtError
try:
    inference_session(b"no graph", Path(sys.argv[1]), LoadOptions())
except R1TrtError:
    import onnxruntime
"""
    environment = {name: value for name, value in os.environ.items() if name != NO_TELEMETRY}
    environment |= {"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=True)
    # What collects the events makes a file for its session first.
    assert list(tmp_path.iterdir()) == []
