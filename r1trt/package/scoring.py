"""An engine without a KV cache in a Triton repository: a stateless model, the logits of whole prompts."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from r1trt.artifacts.store import copy_file
from r1trt.errors import BuildError
from r1trt.inspect import model_from_onnx_file
from r1trt.package.bundle import EngineBundle
from r1trt.package.triton_config import (
    EngineInterface,
    TensorInterface,
    model_config_from_interface,
    model_config_text,
    write_warmup_data,
)


def write_scoring_model(directory: Path, bundle: EngineBundle) -> None:
    """Writes a model directory for Triton's TensorRT or ONNX Runtime backend; its name is the model's.

    Args:
        directory: Where; it does not exist yet.
        bundle: Engines without a KV cache.

    Raises:
        BuildError: No backend of Triton loads such engines.
    """
    require_loadable(bundle)
    version, tokenizer = directory / "1", directory / "tokenizer"
    version.mkdir(parents=True)
    tokenizer.mkdir()
    interface = interface_from_bundle(bundle, directory.name)
    (directory / "config.pbtxt").write_text(model_config_text(model_config_from_interface(interface)))
    write_warmup_data(directory)
    for name, path in bundle.engine_files.items():
        copy_file(path, version / name)
    for name, path in bundle.tokenizer_files.items():
        copy_file(path, tokenizer / name)


def require_loadable(bundle: EngineBundle) -> None:
    """Refuses TensorRT-RTX engines without a cache, with the reason."""
    if bundle.manifest["backend"] == "tensorrt-rtx":
        raise BuildError(
            "Triton cannot load TensorRT-RTX engines: its TensorRT backend (tensorrt_plan) links the full"
            " TensorRT library, and the two do not read each other's engines.",
            where=bundle.graph.parent,
            found="backend tensorrt-rtx",
            expected="tensorrt or onnxruntime",
            fix="build with --backend tensorrt on a machine with the target GPU, or with --arch cpu; or build"
            " with a KV cache: a generation model brings its own library, which may be TensorRT-RTX",
        )


def interface_from_bundle(bundle: EngineBundle, model_name: str) -> EngineInterface:
    """Reads tensor names, types and sizes from the graph that the engine was built from."""
    graph = model_from_onnx_file(bundle.graph).graph
    engines = bundle.manifest["engines"]
    return EngineInterface(
        model_name=model_name,
        platform="tensorrt_plan" if bundle.is_tensorrt else "onnxruntime_onnx",
        files={
            _compute_capability(entry["sm"]) if bundle.is_tensorrt else "": entry["file"] for entry in engines
        },
        inputs=[_tensor_interface(value) for value in graph.inputs],
        outputs=[_tensor_interface(value) for value in graph.outputs],
        max_batch_size=bundle.manifest["max_batch_size"],
    )


def _compute_capability(sm: int) -> str:
    return f"{sm // 10}.{sm % 10}"


def _tensor_interface(value: ir.Value) -> TensorInterface:
    if value.name is None or value.dtype is None or value.shape is None:
        raise BuildError("An input or output of the engine's graph has no name, type or shape.", found=value)
    dims = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorInterface(name=value.name, dtype=value.dtype.name, dims=dims[1:])
