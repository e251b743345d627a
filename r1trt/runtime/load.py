"""Sessions of the toolchain's directories: exports, builds, and a build's simulation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1trt.artifacts.store import read_manifest
from r1trt.export.io import weight_base_of
from r1trt.graph.outputs import graph_with_outputs
from r1trt.runtime.engine_session import session_from_build
from r1trt.runtime.onnxruntime_model import LoadOptions, folds_constants
from r1trt.runtime.onnxruntime_session import OnnxRuntimeSession
from r1trt.runtime.session import LOGITS, Session, SessionError


def session_from_engine(engine: Path, *, threads: int | None = None) -> Session:
    """Load what a directory holds, by its manifest.

    Args:
        engine: Build directory, or an export directory, whose graph ONNX Runtime runs as it is.
        threads: CPU threads of ONNX Runtime; None leaves it to ONNX Runtime.

    Returns:
        A session on the CPU for `--arch cpu` and for exports, on this machine's GPU for TensorRT engines.

    Raises:
        R1TrtError: The directory is damaged or of another kind.
        UnavailableError: It needs a GPU or a library that is not here.
    """
    manifest = read_manifest(engine)
    if manifest["kind"] == "export":
        return session_from_export(engine, manifest, threads=threads)
    if manifest["kind"] != "engine":
        raise SessionError(
            "This directory holds nothing that can be run.",
            where=engine,
            found=f"kind {manifest['kind']!r}",
            expected="the directory of a build or of an export",
        )
    return session_from_build(engine, manifest, LoadOptions(threads=threads))


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
