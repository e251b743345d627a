"""Quantizes one graph by NVIDIA's Model Optimizer, in its own environment, for `benchmark_modelopt.py`.

    PYTHON modelopt_peer.py GRAPH CHUNKS.npz OUTPUT OPTIONS.json

Prints one line of JSON last: seconds, peak memory, versions. Nothing of r1trt is imported.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("nvidia-modelopt", "onnx", "onnxruntime-gpu", "torch", "numpy")


def main(graph: str, chunks: str, output: str, options: str) -> None:
    """Quantizes, and prints what it took."""
    quantization = import_module("modelopt.onnx.quantization")
    started = time.perf_counter()
    quantization.quantize(
        graph,
        calibration_data_reader=reader_of_chunks(np.load(chunks)),
        calibration_eps=["cpu"],
        output_path=output,
        use_external_data_format=True,
        **json.loads(Path(options).read_text(encoding="utf-8")),
    )
    result = {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": {name: version(name) for name in PACKAGES},
    }
    print(json.dumps(result))


def reader_of_chunks(chunks: Any) -> Any:
    """What Model Optimizer reads calibration data from; chunks of token ids may differ in length."""
    base: Any = import_module("onnxruntime.quantization").CalibrationDataReader

    class Reader(base):  # type: ignore[misc]  # known in the peer's environment alone
        def __init__(self) -> None:
            self.rewind()

        def get_next(self) -> dict[str, Any] | None:
            return next(self._left, None)

        def get_first(self) -> dict[str, Any]:
            return next(feeds())

        def rewind(self) -> None:
            self._left = feeds()

    def feeds() -> Any:
        for name in chunks.files:
            ids_S = chunks[name]
            yield {"input_ids": ids_S[None], "seq_len": np.array([len(ids_S)], np.int64)}

    return Reader()


if __name__ == "__main__":
    main(*sys.argv[1:])
