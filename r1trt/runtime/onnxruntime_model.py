"""The one place where ONNX Runtime loads a graph."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1trt.errors import UnavailableError
from r1trt.graph.wire import graph_bytes
from r1trt.machine import cores
from r1trt.runtime.session import SessionError

# Without it ONNX Runtime would look for the weights in the working directory: it is given bytes, not a path.
_WEIGHT_DIRECTORY = "session.model_external_initializers_file_folder_path"
_ERRORS_ONLY = 3
# Casting BF16 weights to FP32 once, at load, makes calls faster; above this it takes minutes and doubles
# the memory.
_FOLD_BELOW_BYTES = 1 << 30

_SPIN_US = 20
# Enough for the gap between two operators. ONNX Runtime's own threads spin for as long as a call takes, which
# gains nothing on idle cores (SmolLM2 in INT8 decodes 84-92 tokens/s so, 94-96 with 20 us, on two) and takes
# them from whoever else needs them (29-35 and 40-56 tokens/s beside a process that keeps one of them busy).


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How ONNX Runtime loads and runs a graph on the CPU.

    Attributes:
        threads: Threads of one operator; None takes one for each core that may be used.
        fold_constants: Compute constant parts once, at load; needs memory for the results.
        spin_us: How long a thread that waits holds its core, in microseconds.
        profile: Beginning of the path of the file that its profiler writes; None runs without it.
        huge_page_seconds: How long loading a build may take to move weights to huge pages, where they are
            not; 0.1 is enough for 150 MB, a server waits longer.
        memory: Bytes that parts of a model, and its caches, may take; None means what is available.
    """

    threads: int | None = None
    fold_constants: bool = True
    spin_us: int = _SPIN_US
    profile: Path | None = None
    huge_page_seconds: float = 0.1
    memory: int | None = None


NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"
"""Of ONNX Runtime; a user's own value stays."""


def folds_constants(weight_bytes: int) -> bool:
    """Whether constants of so many bytes of weights are worth computing once, at load."""
    return weight_bytes < _FOLD_BELOW_BYTES


def onnxruntime_module() -> Any:
    """Imports ONNX Runtime.

    Raises:
        UnavailableError: It is not installed.
    """
    # NOTES: since 1.29 PyPI's packages send what they run to Microsoft, unless this is set before the import.
    os.environ.setdefault(NO_TELEMETRY, "1")
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise UnavailableError(
            "ONNX Runtime is not installed.", fix="pip install 'r1trt[cpu]', then run the command again"
        ) from error


def inference_session(graph: Path | bytes, weight_base: Path, options: LoadOptions) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU.

    Q/DQ pairs are kept: a pair computes what it says, and is not fused into a quantized kernel.

    Args:
        graph: An ONNX file, or a serialized graph.
        weight_base: Directory that its external data is relative to.
        options: How.

    Raises:
        SessionError: There is no such file, or ONNX Runtime cannot load the graph.
        UnavailableError: ONNX Runtime is not installed.
    """
    onnxruntime = onnxruntime_module()
    where = graph if isinstance(graph, Path) else weight_base
    if isinstance(graph, Path) and not graph.is_file():
        raise SessionError("There is no such graph.", where=where, fix="export or build again")
    data = graph_bytes(graph, SessionError) if isinstance(graph, Path) else graph
    try:
        return onnxruntime.InferenceSession(
            data,
            _settings(onnxruntime.SessionOptions(), weight_base, options),
            providers=["CPUExecutionProvider"],
            disabled_optimizers=[] if options.fold_constants else ["ConstantFolding"],
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise SessionError(
            "ONNX Runtime cannot load the graph.",
            where=where,
            found=error,
            fix="check that the weight files are complete (r1trt inspect) and that this is ONNX Runtime 1.32 "
            "or newer, which cpu engines need, or build again",
        ) from error


def _settings(settings: Any, weight_base: Path, options: LoadOptions) -> Any:
    settings.log_severity_level = _ERRORS_ONLY
    # NOTES: ONNX Runtime's own choice is all cores of the machine, whatever a container may use of them.
    settings.intra_op_num_threads = options.threads or cores()
    # As bytes: Python inside a server may take names of files for ASCII, and this for no text.
    settings.add_session_config_entry(_WEIGHT_DIRECTORY, os.fsencode(weight_base.resolve()))
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    settings.add_session_config_entry("session.intra_op.spin_duration_us", str(options.spin_us))
    if options.profile is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(options.profile)
    return settings
