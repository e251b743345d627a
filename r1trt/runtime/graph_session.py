"""Sessions of graphs that are not what is served: an export's, and a build's simulation.

They may give further values of the graph beside the logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from r1trt.artifacts import BuildArtifact, ExportArtifact
from r1trt.export.io import weight_base_of
from r1trt.graph.outputs import graph_with_outputs
from r1trt.runtime.engine_session import result_of_build
from r1trt.runtime.expert_source import expert_source
from r1trt.runtime.onnxruntime_model import LoadOptions, folds_constants
from r1trt.runtime.onnxruntime_session import OnnxRuntimeSession
from r1trt.runtime.session import LOGITS, Session


def session_from_export(
    export: ExportArtifact,
    *,
    threads: int | None = None,
    extra_outputs: Mapping[str, str] | None = None,
) -> Session:
    """Load the graph of an export, with the weights that it points to.

    Args:
        export: The export.
        threads: CPU threads; None takes one for each core that may be used.
        extra_outputs: Values of the graph that a call returns as well: result's name -> value's name.

    Raises:
        R1TrtError: The weights changed since, or the graph cannot be loaded.
    """
    return OnnxRuntimeSession(
        _graph(export.graph, extra_outputs),
        weight_base=weight_base_of(export),
        outputs={LOGITS: LOGITS, **(extra_outputs or {})},
        options=LoadOptions(threads=threads, fold_constants=folds_constants(export.manifest.weights.bytes)),
    )


def session_from_simulation(
    build: BuildArtifact,
    *,
    threads: int | None = None,
    extra_outputs: Mapping[str, str] | None = None,
) -> OnnxRuntimeSession:
    """Load the simulation that lies beside a GPU's engine: the typed graph's arithmetic, roundings included.

    Args and Raises are those of `session_from_export`.
    """
    weight_bytes = build.weights.stat().st_size if build.weights.is_file() else 0
    return OnnxRuntimeSession(
        _graph(build.simulated_graph, extra_outputs),
        weight_base=build.path,
        outputs={**result_of_build(build), **(extra_outputs or {})},
        max_batch_size=build.manifest.max_batch_size,
        max_input_len=build.manifest.max_input_len,
        options=LoadOptions(threads=threads, fold_constants=folds_constants(weight_bytes)),
        experts=expert_source(build),
    )


def _graph(path: Path, extra_outputs: Mapping[str, str] | None) -> Path | bytes:
    return graph_with_outputs(path, extra_outputs.values()) if extra_outputs else path
