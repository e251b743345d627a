"""Sessions of graphs that are not what is served: an export's, and a build's simulation.

They may give further values of the graph beside the logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1trt.export.io import weight_base_of
from r1trt.graph.outputs import graph_with_outputs
from r1trt.runtime.onnxruntime_model import LoadOptions, folds_constants
from r1trt.runtime.onnxruntime_session import OnnxRuntimeSession
from r1trt.runtime.session import LOGITS, Session


def session_from_export(
    directory: Path,
    manifest: Mapping[str, Any],
    *,
    threads: int | None = None,
    extra_outputs: Mapping[str, str] | None = None,
) -> Session:
    """Load `model.onnx` of an export directory, with the weights that it points to.

    Args:
        directory: Export directory.
        manifest: Its manifest.
        threads: CPU threads; None leaves it to ONNX Runtime.
        extra_outputs: Values of the graph that a call returns as well: result's name -> value's name.

    Raises:
        R1TrtError: The weights changed since, or the graph cannot be loaded.
    """
    weight_bytes = sum(file["bytes"] for file in manifest["weights"]["files"])
    return OnnxRuntimeSession(
        _graph(directory / "model.onnx", extra_outputs),
        weight_base=weight_base_of(directory, dict(manifest)),
        outputs={LOGITS: LOGITS, **(extra_outputs or {})},
        options=LoadOptions(threads=threads, fold_constants=folds_constants(weight_bytes)),
    )


def session_from_simulation(
    directory: Path,
    manifest: Mapping[str, Any],
    *,
    threads: int | None = None,
    extra_outputs: Mapping[str, str] | None = None,
) -> Session:
    """Load `simulated.onnx` of a build directory: the typed graph's arithmetic, roundings included.

    Args and Raises are those of `session_from_export`.
    """
    weights = directory / "weights.safetensors"
    weight_bytes = weights.stat().st_size if weights.is_file() else 0
    return OnnxRuntimeSession(
        _graph(directory / "simulated.onnx", extra_outputs),
        weight_base=directory,
        outputs={LOGITS: LOGITS, **(extra_outputs or {})},
        max_batch_size=manifest["max_batch_size"],
        max_input_len=manifest["max_input_len"],
        options=LoadOptions(threads=threads, fold_constants=folds_constants(weight_bytes)),
    )


def _graph(path: Path, extra_outputs: Mapping[str, str] | None) -> Path | bytes:
    return graph_with_outputs(path, extra_outputs.values()) if extra_outputs else path
