"""An engine without a KV cache in a Triton repository: a stateless model, the logits of whole prompts."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.artifacts.disk import copy_file
from r1trt.artifacts.repository import ServedModelDirectory
from r1trt.errors import BuildError
from r1trt.graph.load import model_from_onnx_file
from r1trt.package.bundle import EngineBundle
from r1trt.package.triton_config import (
    EngineInterface,
    TensorInterface,
    model_config_from_interface,
    model_config_text,
    write_warmup_data,
)


def write_scoring_model(directory: ServedModelDirectory, bundle: EngineBundle) -> None:
    """Writes a model directory for Triton's TensorRT or ONNX Runtime backend.

    Args:
        directory: Where; it does not exist yet.
        bundle: Engines without a KV cache.

    Raises:
        BuildError: No backend of Triton loads such engines.
    """
    require_loadable(bundle)
    directory.version.mkdir(parents=True)
    directory.tokenizer.mkdir()
    interface = interface_from_bundle(bundle, directory.path.name)
    directory.configuration.write_text(model_config_text(model_config_from_interface(interface)))
    write_warmup_data(directory.warmup)
    for path in bundle.engine_files:
        copy_file(path, directory.version / path.name)
    bundle.source.copy_companions_to(directory.tokenizer)


def require_loadable(bundle: EngineBundle) -> None:
    """Refuses TensorRT-RTX engines without a cache, with the reason."""
    if bundle.manifest.backend == "tensorrt-rtx":
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
    return EngineInterface(
        model_name=model_name,
        platform="tensorrt_plan" if bundle.is_tensorrt else "onnxruntime_onnx",
        files={_compute_capability(entry.sm): entry.file for entry in bundle.manifest.engines},
        inputs=[_tensor_interface(value) for value in graph.inputs],
        outputs=[_tensor_interface(value) for value in graph.outputs],
        max_batch_size=bundle.manifest.max_batch_size,
    )


def _compute_capability(sm: int | None) -> str:
    return "" if sm is None else f"{sm // 10}.{sm % 10}"


def _tensor_interface(value: ir.Value) -> TensorInterface:
    if value.name is None or value.dtype is None or value.shape is None:
        raise BuildError("An input or output of the engine's graph has no name, type or shape.", found=value)
    dims = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorInterface(name=value.name, dtype=value.dtype.name, dims=dims[1:])
