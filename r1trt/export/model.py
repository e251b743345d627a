"""From a checkpoint to an ONNX model in memory: nothing is read but headers."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir

from r1trt import __version__
from r1trt.checkpoint import Checkpoint
from r1trt.errors import ExportError
from r1trt.export.decoder import emit_decoder
from r1trt.export.graph import GraphEmitter
from r1trt.lowerings.bodies import set_bodies
from r1trt.ops.operator import DOMAIN, IR_VERSION
from r1trt.ops.registry import layer_functions


def onnx_from_checkpoint(
    checkpoint: Checkpoint,
    capacity: int,
    *,
    last_token_logits: bool = False,
    locations: Mapping[str, str] | None = None,
) -> ir.Model:
    """Build the graph of a checkpoint, with the `onnxruntime` bodies.

    Args:
        checkpoint: A checked checkpoint.
        capacity: Rows of the KV cache, in tokens.
        last_token_logits: Compute the logits of each sequence's last real token only, [B,V].
        locations: Names of the weight files below the weight base directory, where they differ from the
            checkpoint's own.

    Returns:
        A model whose weights are external tensors that point into the checkpoint's safetensors files.
    """
    names = locations or {header.file: header.file for header in checkpoint.files}
    emitter = GraphEmitter(checkpoint.config.family, {**checkpoint.tensors, **checkpoint.scales}, names)
    emit_decoder(emitter, checkpoint.config, capacity, last_token_logits=last_token_logits)
    model = ir.Model(
        emitter.graph, ir_version=IR_VERSION, producer_name="r1trt", producer_version=__version__
    )
    _attach_functions(model)
    return model


def _attach_functions(model: ir.Model) -> None:
    """Give the model the bodies of exactly those r1trt functions that its graph calls."""
    called = {node.op_type for node in model.graph if node.domain == DOMAIN}
    bodies = [function for name, function in layer_functions().items() if name in called]
    model.functions.clear()
    for function in bodies:
        model.functions[function.identifier()] = function
    set_bodies(model, "onnxruntime")


def check_model(model: ir.Model) -> None:
    """Run ONNX's checker with full shape inference, and require a type and a shape on every value.

    Raises:
        ExportError: With the checker's own words, or the values that lack a type or a shape.
    """
    bare = [
        value.name
        for node in model.graph
        for value in node.outputs
        if value.dtype is None or value.shape is None
    ]
    if bare:
        raise ExportError("Values of the graph have no type or shape.", found=", ".join(map(str, bare[:10])))
    proto = _without_weights(ir.to_proto(model))
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError("ONNX's checker refuses the exported graph.", found=str(error)) from error


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Turn external weights into inputs: ONNX's checker looks for their files below the working directory.

    Types and shapes stay, and so does all that the checker infers; `load_export` checks the files themselves.
    """
    external = onnx.TensorProto.EXTERNAL
    weights = [tensor for tensor in proto.graph.initializer if tensor.data_location == external]
    kept = [tensor for tensor in proto.graph.initializer if tensor.data_location != external]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    known = {value.name for value in proto.graph.input}
    for tensor in weights:
        if tensor.name not in known:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            proto.graph.input.append(info)
    return proto
